"""Selection via proxy (Coleman et al. 2020): a small model of the train split, and how unsure it is
of each of its points."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rhoselect.compute import threads
from rhoselect.config import TrainerConfig
from rhoselect.data import SplitPoints
from rhoselect.errors import NonFiniteLossError
from rhoselect.plan import Plan
from rhoselect.selection import Forward
from rhoselect.selection.coreset import ProxyMetadata
from rhoselect.selection.uncertainty import entropy
from rhoselect.trainer.flops import forward_flops, step_flops
from rhoselect.trainer.learner import Learner
from rhoselect.types import Layout

SCORE_BATCH = 1000
OnEpoch = Callable[[int, float], None]
"""Called after each epoch with (epoch from 1, mean training loss in nats)."""


def fit(
    model: nn.Module,
    replica: Forward,
    layout: Layout,
    train: SplitPoints,
    *,
    settings: TrainerConfig,
    batch: int,
    epochs: int,
    seed: int,
    fingerprint: str,
    name: str,
    on_epoch: OnEpoch,
) -> tuple[npt.NDArray[np.float32], ProxyMetadata]:
    """Train ``model``, called ``name``, on ``train`` in place; the predictive entropies [N] of its
    points in nats, by ``replica`` of the same architecture, and where they come from.

    ``settings.steps`` does not count, ``epochs`` does. Raises NonFiniteLossError.
    """
    started = time.monotonic()
    device = torch.device("cpu")
    plan = Plan(seed, len(train), batch, batch, first_index=train.start)
    per_epoch = len(train) // batch
    settings = settings.model_copy(update={"steps": epochs * per_epoch})
    learner = Learner(model, settings, seed, device)
    with threads(settings.threads):
        for epoch in range(epochs):
            losses = []
            for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
                indices = plan.indices(plan.window(step))
                result = learner.update(train.read(indices, device), None, step)
                losses.append(result.loss.item())
            mean = math.fsum(losses) / per_epoch
            if not math.isfinite(mean):
                raise NonFiniteLossError(
                    f"proxy model: mean training loss of epoch {epoch + 1}: got {mean}, allowed a"
                    " finite one; lower trainer.lr or set trainer.clip_norm"
                )
            on_epoch(epoch + 1, mean)
        replica.load(learner.pieces(layout))
        entropies = _entropies(replica, train, device)
        sample = train.read(train.indices[:batch], device)
        flops = epochs * per_epoch * batch * step_flops(model, sample)
        flops += len(train) * forward_flops(model, sample)
    tool = f"rhoselect {version('rhoselect')}"
    seconds = time.monotonic() - started
    return entropies, ProxyMetadata(fingerprint, train.start, name, tool, seconds, flops)


def _entropies(
    replica: Forward, train: SplitPoints, device: torch.device
) -> npt.NDArray[np.float32]:
    parts = []
    for start in range(0, len(train), SCORE_BATCH):
        points = train.read(train.indices[start : start + SCORE_BATCH], device)
        parts.append(entropy(replica(points).logits.log_softmax(1)).numpy())
    return np.concatenate(parts)
