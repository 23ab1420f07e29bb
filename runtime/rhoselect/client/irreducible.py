"""Irreducible losses of the user's own data set, under a model and losses of the user's own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from rhoselect import config as configuration
from rhoselect.client.batch import Collate
from rhoselect.client.own_model import check_copyable, check_module, chosen_device, copied
from rhoselect.client.user_data import (
    LossFunction,
    UserPoints,
    check_losses,
    user_replica,
    user_task,
)
from rhoselect.compute import as_guest
from rhoselect.config import Config, resolve
from rhoselect.errors import ConfigError
from rhoselect.trainer.fit import FitOptions, FitProgress
from rhoselect.trainer.fit.fitter import Fitter, fold_subsets
from rhoselect.trainer.fit.quality import Quality, doubts
from rhoselect.trainer.fit.training import SILENT, SmallModel, Subset, check_batch

FIT_OPTIONS = FitOptions()
DEFAULTS: dict[str, dict[str, Any]] = {
    "trainer": {"schedule": "cosine", "lr": 3e-3},
    "scorer": {"precision": "fp32"},
    "data": {"dataset": "given:data"},
}


def fit_irreducible_losses(
    model: nn.Module,
    data: Any,
    *,
    holdout: Any = None,
    folds: int | None = None,
    options: FitOptions = FIT_OPTIONS,
    losses: LossFunction | None = None,
    collate_fn: Collate = default_collate,
    config: Mapping[str, Any] | None = None,
    progress: FitProgress = SILENT,
) -> Tensor:
    """The irreducible losses [N] float32 of the N points of ``data``, for ``SelectionClient``.

    A copy of ``model`` learns from ``holdout``, which must have none of these points; or, with
    ``folds`` = K, K copies in turn learn from all of ``data`` but a fold, which they score. Data,
    ``losses`` and ``collate_fn`` are as in ``SelectionClient``. ``config`` has keys of [trainer],
    ``scorer.precision`` and ``seed``; the model's device trains unless ``trainer.device`` is given.
    Warns if losses should be doubted. Raises UserError, such as NonFiniteLossError.
    """
    if (holdout is None) == (folds is None):
        raise ConfigError("fit_irreducible_losses: allowed holdout=… or folds=…, one of the two")
    if options.tokens:
        raise ConfigError(
            "fit_irreducible_losses: got options with tokens, allowed without: it gives one loss a"
            " point; rhoselect.trainer.fit writes tables with losses of tokens"
        )
    check_module(model)
    check_copyable(model)
    points = UserPoints(data, collate_fn)
    learnt = points if holdout is None else UserPoints(holdout, collate_fn)
    fitter = _fitter(model, points, _config(config), options, losses, progress)
    device, scored = fitter.model.replica.device, Subset.of(points)
    with as_guest(device):
        pairs = _pairs(learnt, scored, folds, fitter)
        values, found = _fit(fitter, scored, pairs)
    for doubt in found:
        warnings.warn(f"irreducible losses: {doubt}", stacklevel=2)
    return torch.from_numpy(values)


def _config(given: Mapping[str, Any] | None) -> Config:
    tree = dict(given or {})
    for section, keys in DEFAULTS.items():
        tree[section] = {**keys, **tree.get(section, {})}
    return configuration.apply(tree, [])


def _fitter(
    model: nn.Module,
    points: UserPoints,
    config: Config,
    options: FitOptions,
    losses: LossFunction | None,
    progress: FitProgress,
) -> Fitter:
    device, config = chosen_device(model, config.trainer.device, "trainer.device"), resolve(config)
    task = user_task(config, losses)
    replica = user_replica(copied(model), config, device, task)
    with as_guest(device):
        check_losses(replica, points)
    small = SmallModel("", copied(model), replica, config.scorer.precision, task)
    return Fitter(small, "", config.trainer, config.seed, options, progress)


Pair = tuple[npt.NDArray[np.int64] | slice, Subset, Subset]
"""Ranks of points, the points to learn from, and the points of these ranks, to score."""


def _pairs(learnt: UserPoints, scored: Subset, folds: int | None, fitter: Fitter) -> Iterator[Pair]:
    """What each model learns from and scores. Raises ConfigError."""
    batch, epochs = fitter.options.batch, fitter.options.epochs
    if folds is None:
        check_batch(batch, len(learnt), "the holdout")
        fitter.progress.begin(1, epochs, len(learnt) // batch)
        return iter([(slice(None), Subset.of(learnt), scored)])
    points = len(learnt)
    if not 2 <= folds <= points:
        raise ConfigError(f"folds: got {folds}, allowed 2 to the {points} points of the data")
    others = points - -(-points // folds)
    check_batch(batch, others, f"the data without a fold of {folds}")
    fitter.progress.begin(folds, epochs, others // batch)
    return fold_subsets(learnt, folds, fitter.seed)


def _fit(
    fitter: Fitter, points: Subset, pairs: Iterator[Pair]
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """The losses [N] of ``points``, and why they should be doubted."""
    some = points.indices[: fitter.settings.eval_batch]
    replica, quality = fitter.model.replica, Quality()
    before = float(replica(points.points.read(some, replica.device)).losses.mean())
    values = np.empty(len(points.indices), np.float32)
    for ranks, learn, scored in pairs:
        fitted = fitter.fit(learn, scored)
        values[ranks] = fitted.judged.losses
        quality.add(fitted.judged, fitted.last_loss)
    after, mean = (float(part.mean(dtype=np.float64)) for part in (values[: len(some)], values))
    found = doubts(after, before, None, "of the model before the fit")
    return values, [*found, *doubts(mean, None, quality.last_loss)]
