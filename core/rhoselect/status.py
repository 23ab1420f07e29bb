"""What a trainer lets others see; without torch, for commands that only look."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Status:
    """A look at a running trainer. Seconds since the start, resumed time included, pauses not.

    ``staleness_counts``: points selected since the process started, by the age of their scores:
    one number a bucket of ``metrics.STALENESS_STEPS``, then the older ones. ``inexact``: why the
    result differs from that of a run that never stopped; empty if it does not. ``metric``: the
    task's main figure, called ``metric_name``, at the last evaluation; NaN before one.
    """

    step: int
    loss: float = math.nan
    accuracy: float = math.nan
    metric: float = math.nan
    metric_name: str = "accuracy"
    staleness: int = 0
    wall_seconds: float = 0.0
    wait_seconds: float = 0.0
    scored_points: int = 0
    paused: bool = False
    staleness_counts: tuple[int, ...] = ()
    inexact: str = ""
