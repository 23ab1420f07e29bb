"""Irreducible losses of the user's own data set, under a model and losses of the user's own."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rhoselect import config as configuration
from rhoselect.client.batch import Collate
from rhoselect.client.identity import GIVEN, check_apart, identity
from rhoselect.client.own_model import (
    check_copyable,
    chosen_device,
    copied,
    unwrapped,
)
from rhoselect.client.user_data import (
    LossFunction,
    UserPoints,
    check_losses,
    user_join,
    user_replica,
    user_task,
)
from rhoselect.compute import as_guest
from rhoselect.config import Config, resolve
from rhoselect.data.il_table import IlTable, write_table
from rhoselect.errors import ConfigError
from rhoselect.files import check_place, place
from rhoselect.models.build import check_learns, embedded_ids
from rhoselect.tasks import Task
from rhoselect.trainer.fit import FitOptions, FitProgress
from rhoselect.trainer.fit.fitter import Fitter
from rhoselect.trainer.fit.quality import doubts
from rhoselect.trainer.fit.training import SILENT, SmallModel, check_batch
from rhoselect.trainer.own_loop import GIVEN_DATA

FIT_OPTIONS = FitOptions()
DEFAULTS: dict[str, dict[str, Any]] = {
    "trainer": {"schedule": "cosine", "lr": 3e-3},
    "scorer": {"precision": "fp32"},
    "data": {"dataset": GIVEN_DATA},
}


def fit_irreducible_losses(
    model: nn.Module,
    data: Any,
    *,
    holdout: Any = None,
    folds: int | None = None,
    reference: bool = False,
    options: FitOptions = FIT_OPTIONS,
    losses: LossFunction | None = None,
    collate_fn: Collate | None = None,
    config: Mapping[str, Any] | None = None,
    out: Path | str | None = None,
    progress: FitProgress = SILENT,
) -> Tensor:
    """The irreducible losses [N] float32 of the N points of ``data``, for ``SelectionClient``.

    A copy of ``model`` learns from ``holdout``, which must have none of these points; with
    ``folds`` = K, K copies in turn learn from all of ``data`` but a fold, which they score; with
    ``reference`` the model scores as it is. Data, ``losses`` and ``collate_fn`` are as in
    ``SelectionClient``. ``config`` has keys of [task] and [trainer], ``scorer.precision``,
    ``il.overlap`` and ``seed``; the model's device trains unless ``trainer.device`` is given.
    ``out`` is a file for the table, which ``SelectionClient`` takes, too; with ``options.tokens``
    it has the losses of tokens. Warns if losses should be doubted. Raises UserError.
    """
    _check_way(holdout is not None, folds is not None, reference)
    path = _checked_path(out, options)
    check_copyable(model)
    settings = resolve(given := _config(config))
    join, known = user_join(settings, collate_fn), embedded_ids(unwrapped(model))
    points = UserPoints(data, join, known)
    learnt = points if holdout is None else UserPoints(holdout, join, known, "holdout")
    fitter = _fitter(model, user_task(settings, losses), points, given, options, progress)
    with as_guest(fitter.model.replica.device):
        _check(fitter, points, learnt, folds, settings)
        table, found = _table(fitter, points, learnt, folds, reference)
    if path is not None:
        write_table(path, table)
    for doubt in found:
        warnings.warn(f"irreducible losses: {doubt}", stacklevel=2)
    return torch.from_numpy(table.values)


def _check_way(*ways: bool) -> None:
    """Raise ConfigError unless it is one of a holdout, folds and a reference."""
    if sum(ways) != 1:
        raise ConfigError(
            "fit_irreducible_losses: allowed one of holdout=…, folds=… and reference=True, of a"
            " model that knows the task"
        )


def _checked_path(out: Path | str | None, options: FitOptions) -> Path | None:
    """The file to write. Raises ConfigError for one that exists, and for tokens without a file."""
    if out is None:
        if options.tokens:
            raise ConfigError(
                "fit_irreducible_losses: got options with tokens and no out, allowed out=FILE,"
                " whose column irreducible_token_losses has the losses of tokens"
            )
        return None
    path = place(out)
    if path.exists():
        raise ConfigError(f"out: got {path}, which exists, allowed a new file; give another name")
    check_place("out", path)
    return path


def _config(given: Mapping[str, Any] | None) -> Config:
    tree = dict(given or {})
    for section, keys in DEFAULTS.items():
        tree[section] = {**keys, **tree.get(section, {})}
    return configuration.apply(tree, [])


def _fitter(
    model: nn.Module,
    task: Task,
    points: UserPoints,
    config: Config,
    options: FitOptions,
    progress: FitProgress,
) -> Fitter:
    device, config = chosen_device(model, config.trainer.device, "trainer.device"), resolve(config)
    replica = user_replica(copied(model), config, device, task)
    kind, parts = type(unwrapped(model)), identity(points)
    name = f"{kind.__module__}:{kind.__qualname__}"
    fingerprint = GIVEN + hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    small = SmallModel(name, copied(model).to(device), replica, config.scorer.precision, task)
    return Fitter(small, fingerprint, config.trainer, config.seed, options, progress, parts)


def _check(
    fitter: Fitter, points: UserPoints, learnt: UserPoints, folds: int | None, config: Config
) -> None:
    """Raise UserError unless the model suits all points, and learns none that it scores, in steps
    of a full batch. Tells progress what will be done."""
    count, batch = len(points), fitter.options.batch
    if folds is not None or learnt is not points:
        check_learns(fitter.model.network, "model: it")
    check_losses(fitter.model.replica, points)
    if folds is not None:
        if folds not in range(2, count + 1):
            raise ConfigError(f"folds: got {folds}, allowed 2 to the {count} points of the data")
        others = count - -(-count // folds)
        check_batch(batch, others, f"the data without a fold of {folds}")
        fitter.progress.begin(folds, fitter.options.epochs, others // batch)
    elif learnt is not points:
        check_batch(batch, len(learnt), "the holdout")
        check_losses(fitter.model.replica, learnt)
        if config.il.overlap != "allow":
            check_apart(points, learnt)
        fitter.progress.begin(1, fitter.options.epochs, len(learnt) // batch)


def _table(
    fitter: Fitter, points: UserPoints, learnt: UserPoints, folds: int | None, reference: bool
) -> tuple[IlTable, list[str]]:
    """The table of the fit that was asked for, and why it should be doubted. Raises UserError."""
    if reference:
        table = fitter.reference(points)
        return table, _doubts(table)
    some = points.first(fitter.settings.eval_batch)
    replica = fitter.model.replica
    before = replica(points.read(some, replica.device)).losses.cpu()
    if folds is not None:
        table = fitter.folds(points, folds)
    else:
        table, _ = fitter.holdout(points, learnt, "holdout")
        ends = (len(points), len(points) + len(learnt))  # its points come after those of the data
        table = replace(table, metadata=replace(table.metadata, holdout=ends))
    return table, _doubts(table, before)


def _doubts(table: IlTable, before: Tensor | None = None) -> list[str]:
    """Why the losses should be doubted. If labels are not known, a guess is what the model made of
    the first points ``before`` it learnt."""
    about, values = table.metadata, torch.from_numpy(table.values).double()
    found = doubts(float(values.mean()), about.guess_loss, about.last_loss)
    if about.guess_loss is None and before is not None:
        first, of = float(values[: len(before)].mean()), "of the model before the fit"
        found = [*doubts(first, float(before.double().mean()), None, of), *found]
    return found
