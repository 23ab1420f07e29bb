"""Keys and values that earlier versions had: refused with what to use instead."""

from __future__ import annotations

REMOVED_KEYS = {
    "selection.max_lag": "delete the key and set selection.lag to a number",
    "selection.mode": "delete the key and the section [stream]; selection.lag = 1 overlaps scoring"
    " and training, and every run is exact now",
    "stream": "delete the section; selection.lag = 1 overlaps scoring and training",
    "selection.agreement": "delete the key; selection.audit_every measures the cost of a lag",
}
REMOVED_VALUES = {
    "selection.lag": ("auto", "set a number; 0 is exact"),
    "selection.rescore": ("auto", 'set "trainer", which is the default, or "scorers"'),
}


def successor(name: str, value: object) -> str | None:
    """What is wrong with a key or its value, if an earlier version had it; else None."""
    if name in REMOVED_KEYS:
        return f"removed in 0.2; {REMOVED_KEYS[name]}"
    removed, instead = REMOVED_VALUES.get(name, (None, ""))
    if removed is not None and value == removed:
        return f"got {value!r}, removed in 0.2; {instead}"
    return None
