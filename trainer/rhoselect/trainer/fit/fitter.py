"""Makes irreducible-loss tables for given points with a given model."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
from torch import nn

from rhoselect.compute import threads
from rhoselect.config import TrainerConfig
from rhoselect.data import SplitPoints
from rhoselect.data.il_table import IlMetadata, IlTable, Variant
from rhoselect.data.token_losses import TokenLosses, joined
from rhoselect.hashing import key64, permute
from rhoselect.selection.tokens import token_losses
from rhoselect.trainer.fit.quality import Judged, Quality, judge
from rhoselect.trainer.fit.training import (
    SILENT,
    FitOptions,
    FitProgress,
    SmallModel,
    Subset,
    check_finite,
    epochs,
)
from rhoselect.trainer.flops import forward_flops, step_flops
from rhoselect.trainer.records import weights_sha256


@dataclass(frozen=True)
class Fitted:
    """A model at its best epoch, and the points that it scores; ``last_loss``: their mean loss in
    nats after the last of ``epochs``; the time of training and scoring."""

    model: nn.Module
    judged: Judged
    last_loss: float
    epochs: int
    seconds: float


@dataclass(frozen=True)
class Fitter:
    """Fits ``model`` and makes tables. Every fit starts from the model's untrained network.

    ``fingerprint`` is that of the points' data set, ``data`` its ``Config.data_keys``. All methods
    raise NonFiniteLossError.
    """

    model: SmallModel
    fingerprint: str
    settings: TrainerConfig
    seed: int
    options: FitOptions
    progress: FitProgress = SILENT
    data: Mapping[str, str] = field(default_factory=dict)

    def holdout(
        self, train: SplitPoints, holdout: SplitPoints, split: str
    ) -> tuple[IlTable, nn.Module]:
        """The table of a model trained on ``holdout``, which is the split ``split``; the model."""
        learn, scored, quality = Subset.of(holdout), Subset.of(train), Quality()
        fitted = self.fit(learn, scored)
        quality.add(fitted.judged, fitted.last_loss)
        origin = _Origin("holdout", split, (holdout.start, holdout.stop))
        digest, flops = weights_sha256(fitted.model), self._flops(fitted, learn, scored)
        metadata = self._metadata(origin, digest, fitted.seconds, flops, quality)
        judged = fitted.judged
        return IlTable(train.start, judged.losses, metadata, judged.tokens), fitted.model

    def folds(self, train: SplitPoints, count: int) -> IlTable:
        """The table of ``count`` models: each scores its fold and learnt from all other points.

        With 2 folds this is the paper's variant without a holdout (section 4.2, "no holdout set").
        """
        values, quality, ranks, tokens = np.empty(len(train), np.float32), Quality(), [], []
        seconds, flops, digest = 0.0, 0, hashlib.sha256()
        for fold, learn, scored in fold_subsets(train, count, self.seed):
            fitted = self.fit(learn, scored)
            values[fold] = fitted.judged.losses
            ranks.append(fold)
            tokens.append(fitted.judged.tokens)
            quality.add(fitted.judged, fitted.last_loss)
            seconds += fitted.seconds
            flops += self._flops(fitted, learn, scored)
            digest.update(weights_sha256(fitted.model).encode())
        origin = _Origin("cross-fit", "train", (train.start, train.stop), count)
        metadata = self._metadata(origin, digest.hexdigest(), seconds, flops, quality)
        return IlTable(train.start, values, metadata, _in_order(ranks, tokens))

    def reference(self, train: SplitPoints) -> IlTable:
        """The table of the model without training it."""
        network, replica = self.model.network, self.model.replica
        started = time.monotonic()
        with threads(self.settings.threads):
            weights = network.state_dict()
            replica.load((name, weights[name]) for name in replica.layout)
            scored, quality = Subset.of(train), Quality()
            judged = judge(replica, scored, self.settings.eval_batch, self.options.tokens)
        seconds = time.monotonic() - started
        check_finite("mean loss on the train split", judged.mean)
        quality.add(judged, judged.mean)
        sample = train.read(train.first(self.options.batch), replica.device)
        flops = len(judged.losses) * forward_flops(self.model.task, network, sample)
        origin = _Origin("reference", "", (train.start, train.start))
        metadata = self._metadata(origin, weights_sha256(network), seconds, flops, quality)
        return IlTable(train.start, judged.losses, metadata, judged.tokens)

    def fit(self, learn: Subset, scored: Subset) -> Fitted:
        """Train on ``learn``; the model and the losses on ``scored`` of the epoch where their mean
        is lowest."""
        options, replica = self.options, self.model.replica
        if options.tokens:  # before a fit of hours
            token_losses(replica(scored.points.read(scored.indices[:1], replica.device)))
        learner = self.model.learner(learn, self.settings, options, self.seed)
        started = time.monotonic()  # what torch loads at its first optimizer is no part of the fit
        best, best_model, best_epoch = None, learner.evaluated, 0
        with threads(self.settings.threads):
            for epoch, _ in epochs(learner, learn, options, self.seed, self.progress):
                replica.load(learner.pieces(replica.layout))
                now = judge(replica, scored, self.settings.eval_batch, options.tokens)
                check_finite(f"mean loss of the points to score after epoch {epoch}", now.mean)
                self.progress.epoch(epoch, now.mean)
                if best is None or now.mean < best.mean:
                    best, best_model, best_epoch = now, copy.deepcopy(learner.evaluated), epoch
                if options.patience and epoch - best_epoch >= options.patience:
                    break
        assert best is not None, "there is an epoch"
        return Fitted(best_model, best, now.mean, epoch, time.monotonic() - started)

    def _flops(self, fitted: Fitted, learn: Subset, scored: Subset) -> int:
        """Those of training, and of scoring after each epoch."""
        batch = self.options.batch
        sample = learn.points.read(learn.indices[:batch], self.model.replica.device)
        task, steps = self.model.task, learn.steps(batch)
        trained = steps * batch * step_flops(task, fitted.model, sample)
        judged = len(scored.indices) * forward_flops(task, fitted.model, sample)
        return fitted.epochs * (trained + judged)

    def _metadata(
        self, origin: _Origin, digest: str, seconds: float, flops: int, quality: Quality
    ) -> IlMetadata:
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
            accuracy=quality.accuracy,
            guess_loss=quality.guess_loss,
            last_loss=quality.last_loss,
            data=self.data,
        )


@dataclass(frozen=True)
class _Origin:
    """What the models of a table learnt from: [start, stop) ``learnt`` of the split ``split``."""

    variant: Variant
    split: str
    learnt: tuple[int, int]
    folds: int = 0


def _in_order(
    ranks: Sequence[npt.NDArray[np.int64]], parts: Sequence[TokenLosses | None]
) -> TokenLosses | None:
    """The losses of tokens of points whose ranks are those of the ``parts``, by rank."""
    known = [part for part in parts if part is not None]
    return joined(known).take(np.argsort(np.concatenate(ranks))) if known else None


def split_folds(points: int, folds: int, seed: int) -> list[npt.NDArray[np.int64]]:
    """The ranks 0 … points - 1 in ``folds`` random folds, whose sizes differ by one at most."""
    ranks = permute(np.arange(points, dtype=np.uint64), points, key64(seed, 0x666F6C64))
    return [np.sort(fold) for fold in np.array_split(ranks.astype(np.int64), folds)]


def fold_subsets(
    train: SplitPoints, folds: int, seed: int
) -> Iterator[tuple[npt.NDArray[np.int64], Subset, Subset]]:
    """Of each fold its ranks, the points of all other folds, and its own."""
    for fold in split_folds(len(train), folds, seed):
        others = np.setdiff1d(np.arange(len(train)), fold, assume_unique=True)
        learn, scored = (Subset(train, train.index_of(ranks)) for ranks in (others, fold))
        yield fold, learn, scored
