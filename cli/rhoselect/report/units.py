"""Numbers as a page and a sentence show them: rounded, with units."""

from __future__ import annotations

MINUTE_S, HOUR_S = 60, 3600
LARGE = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def seconds(value: float) -> str:
    """4.9 s, 50 s, 12 min, 3.4 h."""
    if value < 10:
        return f"{value:.1f} s"
    if value < 2 * MINUTE_S:
        return f"{value:.0f} s"
    if value < 2 * HOUR_S:
        return f"{value / MINUTE_S:.0f} min"
    return f"{value / HOUR_S:,.1f} h"


def flops(value: float) -> str:
    """Floating-point operations: 1.2 TFLOP."""
    for scale, prefix in LARGE:
        if value >= scale:
            return f"{value / scale:.3g} {prefix}FLOP"
    return f"{value:.0f} FLOP"


def count(value: float) -> str:
    """1,234"""
    return f"{value:,.0f}"


def percent(value: float) -> str:
    """0.8416 as 84.2%"""
    return f"{value:.1%}"


def nats(value: float) -> str:
    """A loss: 0.02, 3.1"""
    return f"{value:.2f}" if value < 1 else f"{value:.1f}"


def times(value: float) -> str:
    """A ratio of at least 1: 7.1, 12"""
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"
