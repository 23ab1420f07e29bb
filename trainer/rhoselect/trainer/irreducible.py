"""Irreducible losses (Appendix B): what a model that never saw a point cannot tell of its label.

Three ways to such models: trained on a holdout split; cross-fitted, K models each trained on the
train split without a fold of it, which it then scores; or a ready one that nobody trains here.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from rhoselect.compute import threads
from rhoselect.config import TrainerConfig
from rhoselect.data import SplitPoints
from rhoselect.data.il_table import IlMetadata, IlTable, Variant
from rhoselect.errors import NonFiniteLossError
from rhoselect.hashing import key64, permute
from rhoselect.plan import Plan
from rhoselect.selection import Forward
from rhoselect.trainer.flops import forward_flops, step_flops
from rhoselect.trainer.learner import Learner
from rhoselect.trainer.records import weights_sha256
from rhoselect.types import Indices, Layout

SCORE_BATCH = 1000
CPU = torch.device("cpu")


class Watch(Protocol):
    """Told how a fit goes on."""

    def step(self) -> None:
        """An optimizer step is done."""
        ...

    def epoch(self, epoch: int, loss: float) -> None:
        """``epoch`` (from 1) is done: mean loss in nats of the points to score."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. The schedule spans ``epochs``; ``settings.steps`` does not count.

    ``patience`` epochs in a row without a lower loss on the points to score end a fit (0: never).
    """

    settings: TrainerConfig
    batch: int
    epochs: int
    patience: int
    seed: int


@dataclass(frozen=True)
class Subset:
    """The points of ``indices`` [N] of a split."""

    points: SplitPoints
    indices: Indices


@dataclass(frozen=True)
class Fitted:
    """A model at its best epoch; its ``losses`` [N] float32 in nats; time and FLOPs of training and
    scoring."""

    model: nn.Module
    losses: npt.NDArray[np.float32]
    seconds: float
    flops: int


@dataclass(frozen=True)
class Fitter:
    """Makes irreducible-loss tables of ``train``.

    ``model`` is the network before any training, from which every fit starts anew; ``replica``, of
    the same architecture, scores. ``fingerprint``, ``name`` and ``precision`` go into the metadata.
    All methods raise NonFiniteLossError.
    """

    model: nn.Module
    replica: Forward
    layout: Layout
    train: SplitPoints
    recipe: Recipe
    watch: Watch
    fingerprint: str
    name: str
    precision: str

    def holdout(self, holdout: SplitPoints, split: str) -> tuple[IlTable, nn.Module]:
        """The table of a model trained on ``holdout``, and the model (Algorithm 1, lines 1 and 2).

        Of its epochs the one with the lowest loss on the train split is kept.
        """
        fitted = self._fit(Subset(holdout, holdout.indices), Subset(self.train, self.train.indices))
        learnt = (holdout.start, holdout.stop)
        digest = weights_sha256(fitted.model)
        metadata = self._metadata("holdout", split, learnt, digest, fitted.seconds, fitted.flops)
        return IlTable(self.train.start, fitted.losses, metadata), fitted.model

    def cross_fit(self, folds: int) -> IlTable:
        """The table of ``folds`` models: each scores its fold and trained on all the other points.

        With 2 folds this is the paper's variant without a holdout (section 4.2, "no holdout set").
        """
        values = np.empty(len(self.train), np.float32)
        seconds, flops, digest = 0.0, 0, hashlib.sha256()
        for fold in split_folds(len(self.train), folds, self.recipe.seed):
            others = np.setdiff1d(np.arange(len(self.train)), fold, assume_unique=True)
            learnt = Subset(self.train, self.train.index_of(others))
            fitted = self._fit(learnt, Subset(self.train, self.train.index_of(fold)))
            values[fold] = fitted.losses
            seconds += fitted.seconds
            flops += fitted.flops
            digest.update(weights_sha256(fitted.model).encode())
        span = (self.train.start, self.train.stop)
        metadata = self._metadata(
            "cross-fit", "train", span, digest.hexdigest(), seconds, flops, folds
        )
        return IlTable(self.train.start, values, metadata)

    def reference(self) -> IlTable:
        """The table of ``model`` as it is, whatever it learnt from."""
        started = time.monotonic()
        with threads(self.recipe.settings.threads):
            weights = self.model.state_dict()
            self.replica.load((name, weights[name]) for name in self.layout)
            losses = score(self.replica, Subset(self.train, self.train.indices))
        seconds = time.monotonic() - started
        check_finite("mean loss on the train split", float(losses.mean(dtype=np.float64)))
        sample = self.train.read(self.train.first(self.recipe.batch), CPU)
        flops = len(losses) * forward_flops(self.model, sample)
        nothing = (self.train.start, self.train.start)
        digest = weights_sha256(self.model)
        metadata = self._metadata("reference", "", nothing, digest, seconds, flops)
        return IlTable(self.train.start, losses, metadata)

    def _fit(self, learn: Subset, scored: Subset) -> Fitted:
        model = copy.deepcopy(self.model)
        return fit(model, self.replica, self.layout, learn, scored, self.recipe, self.watch)

    def _metadata(
        self,
        variant: Variant,
        split: str,
        learnt: tuple[int, int],
        digest: str,
        seconds: float,
        flops: int,
        folds: int = 0,
    ) -> IlMetadata:
        return IlMetadata(
            fingerprint=self.fingerprint,
            model=self.name,
            weights_sha256=digest,
            split=split,
            holdout=learnt,
            precision=self.precision,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            tool=f"rhoselect {version('rhoselect')}",
            seconds=seconds,
            flops=flops,
            variant=variant,
            folds=folds,
        )


def split_folds(points: int, folds: int, seed: int) -> list[npt.NDArray[np.int64]]:
    """The ranks 0 … points - 1 in ``folds`` random folds, whose sizes differ by one at most."""
    ranks = permute(np.arange(points, dtype=np.uint64), points, key64(seed, 0x666F6C64))
    return [np.sort(fold) for fold in np.array_split(ranks.astype(np.int64), folds)]


def fit(
    model: nn.Module,
    replica: Forward,
    layout: Layout,
    learn: Subset,
    scored: Subset,
    recipe: Recipe,
    watch: Watch,
) -> Fitted:
    """Train ``model`` in place on ``learn``; its losses on ``scored`` at the epoch where their mean
    is lowest, un-augmented. Raises NonFiniteLossError."""
    steps = len(learn.indices) // recipe.batch
    settings = recipe.settings.model_copy(update={"steps": recipe.epochs * steps})
    learner = Learner(model, settings, recipe.seed, CPU)
    started = time.monotonic()  # what torch loads at its first optimizer is no part of the fit
    plan = Plan(recipe.seed, len(learn.indices), recipe.batch, recipe.batch)
    losses: npt.NDArray[np.float32] = np.empty(0, np.float32)
    best_loss, best_model, best_epoch, epoch = math.inf, model, 0, 0
    with threads(settings.threads):
        for epoch in range(1, recipe.epochs + 1):
            for step in range((epoch - 1) * steps, epoch * steps):
                indices = learn.indices[plan.indices(plan.window(step))]
                result = learner.update(learn.points.read(indices, CPU), None, step)
                check_finite(f"training loss at step {step}", result.loss.item())
                watch.step()
            replica.load(learner.pieces(layout))
            now = score(replica, scored)
            mean_loss = float(now.mean(dtype=np.float64))
            check_finite(f"mean loss of the points to score after epoch {epoch}", mean_loss)
            watch.epoch(epoch, mean_loss)
            if mean_loss < best_loss:
                best_loss, losses, best_model = mean_loss, now, copy.deepcopy(model)
                best_epoch = epoch
            if recipe.patience and epoch - best_epoch >= recipe.patience:
                break
        seconds = time.monotonic() - started
        sample = learn.points.read(learn.indices[: recipe.batch], CPU)
        flops = epoch * steps * recipe.batch * step_flops(model, sample)
        flops += epoch * len(scored.indices) * forward_flops(model, sample)
    return Fitted(best_model, losses, seconds, flops)


def check_finite(what: str, loss: float) -> None:
    """Raise NonFiniteLossError unless ``loss`` is finite."""
    if not math.isfinite(loss):
        raise NonFiniteLossError(
            f"irreducible-loss model: {what}: got {loss}, allowed a finite one; lower trainer.lr or"
            " set trainer.clip_norm"
        )


def score(replica: Forward, scored: Subset) -> npt.NDArray[np.float32]:
    """Losses [N] float32 in nats of points under the loaded weights."""
    parts = [
        replica(scored.points.read(scored.indices[start : start + SCORE_BATCH], CPU)).losses.numpy()
        for start in range(0, len(scored.indices), SCORE_BATCH)
    ]
    return np.concatenate(parts)
