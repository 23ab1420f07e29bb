"""Keys and values that earlier versions had: refused with what to use instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rhoselect.errors import ConfigError

REMOVED_KEYS = {
    "selection.max_lag": "delete the key and set selection.lag to a number",
    "selection.mode": "delete the key and the section [stream]; selection.lag = 1 overlaps scoring"
    " and training, and every run is exact now",
    "stream": "delete the section; selection.lag = 1 overlaps scoring and training",
    "selection.agreement": "delete the key; selection.audit_every measures the cost of a lag",
}
REMOVED_VALUES = {
    ("selection.lag", "auto"): "set a number; 0 is exact",
    ("selection.rescore", "auto"): 'set "trainer", which is the default, or "scorers"',
}


def refuse_removed(tree: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first key or value of ``tree`` that was removed."""
    for name, successor in REMOVED_KEYS.items():
        if _value(tree, name) is not None:
            raise ConfigError(f"{name}: removed in 0.2; {successor}")
    for (name, value), successor in REMOVED_VALUES.items():
        if _value(tree, name) == value:
            raise ConfigError(f"{name}: got {value!r}, removed in 0.2; {successor}")


def _value(tree: Mapping[str, Any], name: str) -> object:
    """The value of a dotted name, or None."""
    value: object = tree
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
