"""FLOPs of a model, by torch's counter, once a run; the counts of points do the rest."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rhoselect.tasks import Task, losses_of
from rhoselect.trainer.learner import Learner
from rhoselect.types import Batch


def forward_flops(task: Task, model: nn.Module, batch: Batch) -> int:
    """FLOPs per point of a forward, measured on ``batch`` (matmuls and convolutions; 2 a MAC)."""
    with _counting() as counter, torch.no_grad():
        losses_of(task, copy.deepcopy(model).eval(), batch)
    return int(counter.get_total_flops()) // len(batch.indices)


def step_flops(task: Task, model: nn.Module, batch: Batch) -> int:
    """FLOPs per point of forward and backward, measured on ``batch``."""
    twin = copy.deepcopy(model).train()
    with torch.random.fork_rng(devices=[]), _counting() as counter:
        losses_of(task, twin, batch).losses.mean().backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops()) // len(batch.indices)


def proxy_share(task: Task, learner: Learner, batch: Batch) -> float:
    """The FLOPs of a forward under the network that scores over those under the model: 1 without a
    proxy."""
    if learner.scoring is learner:
        return 1.0
    own, whole = (forward_flops(task, each.model, batch) for each in (learner.scoring, learner))
    return own / max(1, whole)


def _counting() -> FlopCounterMode:
    return FlopCounterMode(display=False)
