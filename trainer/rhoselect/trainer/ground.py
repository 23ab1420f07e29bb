"""What a trainer stands on, and what it lets others see."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from rhoselect.data import SplitPoints
from rhoselect.selection import Forward


@dataclass(frozen=True)
class Ground:
    """What a run stands on: splits, classes, the replicas that re-score and that evaluate."""

    train: SplitPoints
    test: SplitPoints
    classes: int
    rescorer: Forward
    rescorer_layout: dict[str, torch.dtype]
    evaluator: Forward
    evaluator_layout: dict[str, torch.dtype]


@dataclass(frozen=True)
class Status:
    """A look at a running trainer, for displays. Seconds since the start, resumed time included."""

    step: int
    loss: float = math.nan
    accuracy: float = math.nan
    staleness: int = 0
    wall_seconds: float = 0.0
    wait_seconds: float = 0.0
    scored_points: int = 0
