"""Makes irreducible-loss tables for given points with a given model."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
from torch import nn

from rhoselect.compute import threads
from rhoselect.config import TrainerConfig
from rhoselect.data import SplitPoints
from rhoselect.data.il_table import IlMetadata, IlTable, Variant
from rhoselect.hashing import key64, permute
from rhoselect.models.replica import Replica
from rhoselect.trainer.fit.training import (
    CPU,
    SILENT,
    FitOptions,
    FitProgress,
    SmallModel,
    Subset,
    check_finite,
    epochs,
    new_learner,
    outputs,
)
from rhoselect.trainer.flops import forward_flops, step_flops
from rhoselect.trainer.records import weights_sha256


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
    """Fits ``model`` and makes tables. Every fit starts from the model's untrained network.

    ``fingerprint`` is that of the points' data set. All methods raise NonFiniteLossError.
    """

    model: SmallModel
    fingerprint: str
    settings: TrainerConfig
    seed: int
    options: FitOptions
    progress: FitProgress = SILENT

    def holdout(
        self, train: SplitPoints, holdout: SplitPoints, split: str
    ) -> tuple[IlTable, nn.Module]:
        """The table of a model trained on ``holdout``, which is the split ``split``; the model."""
        fitted = self.fit(Subset.of(holdout), Subset.of(train))
        origin = _Origin("holdout", split, (holdout.start, holdout.stop))
        digest = weights_sha256(fitted.model)
        metadata = self._metadata(origin, digest, fitted.seconds, fitted.flops)
        return IlTable(train.start, fitted.losses, metadata), fitted.model

    def folds(self, train: SplitPoints, count: int) -> IlTable:
        """The table of ``count`` models: each scores its fold and learnt from all other points.

        With 2 folds this is the paper's variant without a holdout (section 4.2, "no holdout set").
        """
        values = np.empty(len(train), np.float32)
        seconds, flops, digest = 0.0, 0, hashlib.sha256()
        for fold in split_folds(len(train), count, self.seed):
            others = np.setdiff1d(np.arange(len(train)), fold, assume_unique=True)
            learn, scored = (Subset(train, train.index_of(ranks)) for ranks in (others, fold))
            fitted = self.fit(learn, scored)
            values[fold] = fitted.losses
            seconds += fitted.seconds
            flops += fitted.flops
            digest.update(weights_sha256(fitted.model).encode())
        origin = _Origin("cross-fit", "train", (train.start, train.stop), count)
        metadata = self._metadata(origin, digest.hexdigest(), seconds, flops)
        return IlTable(train.start, values, metadata)

    def reference(self, train: SplitPoints) -> IlTable:
        """The table of the model without training it."""
        network, replica = self.model.network, self.model.replica
        started = time.monotonic()
        with threads(self.settings.threads):
            weights = network.state_dict()
            replica.load((name, weights[name]) for name in replica.layout)
            losses = score(replica, Subset.of(train))
        seconds = time.monotonic() - started
        check_finite("mean loss on the train split", float(losses.mean(dtype=np.float64)))
        sample = train.read(train.first(self.options.batch), CPU)
        flops = len(losses) * forward_flops(network, sample)
        origin = _Origin("reference", "", (train.start, train.start))
        digest = weights_sha256(network)
        metadata = self._metadata(origin, digest, seconds, flops)
        return IlTable(train.start, losses, metadata)

    def fit(self, learn: Subset, scored: Subset) -> Fitted:
        """Train on ``learn``; the model and the losses on ``scored`` of the epoch where their mean
        is lowest."""
        options, replica = self.options, self.model.replica
        model = copy.deepcopy(self.model.network)
        learner = new_learner(model, learn, self.settings, options, self.seed)
        started = time.monotonic()  # what torch loads at its first optimizer is no part of the fit
        losses: npt.NDArray[np.float32] = np.empty(0, np.float32)
        best_loss, best_model, best_epoch, epoch = math.inf, model, 0, 0
        with threads(self.settings.threads):
            for epoch, _ in epochs(learner, learn, options, self.seed, self.progress):
                replica.load(learner.pieces(replica.layout))
                now = score(replica, scored)
                mean_loss = float(now.mean(dtype=np.float64))
                check_finite(f"mean loss of the points to score after epoch {epoch}", mean_loss)
                self.progress.epoch(epoch, mean_loss)
                if mean_loss < best_loss:
                    best_loss, losses, best_model = mean_loss, now, copy.deepcopy(model)
                    best_epoch = epoch
                if options.patience and epoch - best_epoch >= options.patience:
                    break
            seconds = time.monotonic() - started
            sample = learn.points.read(learn.indices[: options.batch], CPU)
            trained = epoch * learn.steps(options.batch) * options.batch
            flops = trained * step_flops(model, sample)
            flops += epoch * len(scored.indices) * forward_flops(model, sample)
        return Fitted(best_model, losses, seconds, flops)

    def _metadata(self, origin: _Origin, digest: str, seconds: float, flops: int) -> IlMetadata:
        return IlMetadata(
            fingerprint=self.fingerprint,
            model=self.model.name,
            weights_sha256=digest,
            split=origin.split,
            holdout=origin.learnt,
            precision=self.model.precision,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            tool=f"rhoselect {version('rhoselect')}",
            seconds=seconds,
            flops=flops,
            variant=origin.variant,
            folds=origin.folds,
        )


@dataclass(frozen=True)
class _Origin:
    """What the models of a table learnt from: [start, stop) ``learnt`` of the split ``split``."""

    variant: Variant
    split: str
    learnt: tuple[int, int]
    folds: int = 0


def split_folds(points: int, folds: int, seed: int) -> list[npt.NDArray[np.int64]]:
    """The ranks 0 … points - 1 in ``folds`` random folds, whose sizes differ by one at most."""
    ranks = permute(np.arange(points, dtype=np.uint64), points, key64(seed, 0x666F6C64))
    return [np.sort(fold) for fold in np.array_split(ranks.astype(np.int64), folds)]


def score(replica: Replica, scored: Subset) -> npt.NDArray[np.float32]:
    """Losses [N] float32 in nats of points under the loaded weights."""
    return np.concatenate([output.losses.numpy() for output in outputs(replica, scored)])
