"""FLOPs of a model, by torch's counter, once a run; the counts of points do the rest."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rhoselect.types import Batch


def forward_flops(model: nn.Module, batch: Batch) -> int:
    """FLOPs per point of a forward, measured on ``batch`` (matmuls and convolutions; 2 a MAC)."""
    with _counting() as counter, torch.no_grad():
        copy.deepcopy(model).eval()(batch.inputs)
    return int(counter.get_total_flops()) // len(batch.labels)


def step_flops(model: nn.Module, batch: Batch) -> int:
    """FLOPs per point of forward and backward, measured on ``batch``."""
    twin = copy.deepcopy(model).train()
    with torch.random.fork_rng(devices=[]), _counting() as counter:
        F.cross_entropy(twin(batch.inputs), batch.labels).backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops()) // len(batch.labels)


def _counting() -> FlopCounterMode:
    return FlopCounterMode(display=False)
