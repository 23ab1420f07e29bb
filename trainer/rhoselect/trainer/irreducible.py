"""The irreducible-loss model (Appendix B): trained on the holdout split with AdamW; of its epochs
the one with the lowest loss on the training set D is kept, and scores D's points un-augmented."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rhoselect.compute import threads
from rhoselect.config import TrainerConfig
from rhoselect.data import SplitPoints
from rhoselect.errors import NonFiniteLossError
from rhoselect.il import IlMetadata, IlTable
from rhoselect.plan import Plan
from rhoselect.selection import Forward
from rhoselect.trainer.flops import forward_flops, step_flops
from rhoselect.trainer.learner import Learner
from rhoselect.trainer.records import weights_sha256
from rhoselect.types import Indices

SCORE_BATCH = 1000
OnEpoch = Callable[[int, int, float], None]
"""Called after each epoch with (epoch from 1, epochs, mean loss on the train split in nats)."""


def fit(
    model: nn.Module,
    replica: Forward,
    layout: dict[str, torch.dtype],
    holdout: SplitPoints,
    train: SplitPoints,
    *,
    settings: TrainerConfig,
    batch: int,
    epochs: int,
    patience: int,
    seed: int,
    metadata: dict[str, str],
    on_epoch: OnEpoch,
) -> IlTable:
    """Fit an irreducible-loss table for ``train``.

    ``model`` is trained on ``holdout`` in place; ``replica``, of the same architecture, scores.
    ``settings.steps`` does not count, ``epochs`` does; ``patience`` epochs in a row without a lower
    loss on ``train`` end the fit (0: never). ``metadata`` gives fingerprint, model, split
    and precision. Raises NonFiniteLossError.
    """
    started = time.monotonic()
    plan = Plan(seed, len(holdout), batch, batch)
    steps_per_epoch = len(holdout) // batch
    settings = settings.model_copy(update={"steps": epochs * steps_per_epoch})
    learner = Learner(model, settings, seed, torch.device("cpu"))
    best_loss, best_model, best_epoch, epoch = float("inf"), model, 0, 0
    losses: npt.NDArray[np.float32] = np.empty(0, np.float32)
    with threads(settings.threads):
        for epoch in range(epochs):
            for step in range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch):
                indices = holdout.start + plan.indices(plan.window(step))
                result = learner.update(holdout.read(indices, learner.device), None, step)
                _check_finite(f"training loss at step {step}", result.loss.item())
            replica.load(learner.pieces(layout))
            scored = score(replica, train, train.indices)
            mean_loss = float(scored.mean(dtype=np.float64))
            _check_finite(f"mean loss on the train split after epoch {epoch + 1}", mean_loss)
            if mean_loss < best_loss:
                best_loss, losses, best_model = mean_loss, scored, copy.deepcopy(learner.model)
                best_epoch = epoch
            on_epoch(epoch + 1, epochs, mean_loss)
            if patience and epoch - best_epoch >= patience:
                break
        sample = train.read(train.indices[:batch], learner.device)
        trained = (epoch + 1) * steps_per_epoch * batch * step_flops(model, sample)
        flops = trained + (epoch + 1) * len(train) * forward_flops(model, sample)
    span = (int(holdout.indices[0]), int(holdout.indices[-1]) + 1)
    described = IlMetadata(
        fingerprint=metadata["fingerprint"],
        model=metadata["model"],
        weights_sha256=weights_sha256(best_model),
        split=metadata["split"],
        holdout=span,
        precision=metadata["precision"],
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        tool=f"rhoselect {version('rhoselect')}",
        seconds=time.monotonic() - started,
        flops=flops,
    )
    return IlTable(train.start, losses, described)


def _check_finite(what: str, loss: float) -> None:
    if not math.isfinite(loss):
        raise NonFiniteLossError(
            f"irreducible-loss model: {what}: got {loss}, allowed a finite one; lower trainer.lr or"
            " set trainer.clip_norm"
        )


def score(replica: Forward, points: SplitPoints, indices: Indices) -> npt.NDArray[np.float32]:
    """Losses [N] float32 in nats of the points of ``indices`` [N] under the loaded weights."""
    device = torch.device("cpu")
    parts = [
        replica(points.read(indices[start : start + SCORE_BATCH], device)).losses.numpy()
        for start in range(0, len(indices), SCORE_BATCH)
    ]
    return np.concatenate(parts)
