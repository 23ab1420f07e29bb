"""The candidates from which a trainer estimates running BatchNorm statistics."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from rhoselect.inputs import RunInputs
from rhoselect.types import Batch

POINTS = 2048
"""Enough for a mean and a variance: torch's own running averages, of momentum .1, stand for 19
batches. At the defaults these forwards are a fifth of those of an evaluation on 10,000 points."""


def next_candidates(inputs: RunInputs, step: int, device: torch.device) -> Iterator[Batch]:
    """Batches of n_b from the windows of ``step`` and later ones, as training would see them: about
    ``POINTS``, or an epoch if that is less.

    They are a function of the plan and the step alone. The next windows are read soon anyway, and a
    batch of n_b is what the model is known to train on.
    """
    plan, n_b = inputs.plan, inputs.config.selection.n_b
    batches = max(1, min(POINTS, plan.n) // n_b)
    windows = range(step, step + -(-batches * n_b // plan.n_B))
    positions = np.concatenate([plan.window(window) for window in windows])[: batches * n_b]
    for part in np.split(positions, batches):
        yield inputs.train.read(plan.indices(part), device, plan.epochs(part))
