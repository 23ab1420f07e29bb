"""Irreducible losses (Appendix B): the loss of each point under a model that was not trained on it.

There are three kinds of models: one trained on a holdout split; K cross-fitted models, each trained
on the train split without one fold, which it then scores; a ready model, which is not trained here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from rhoselect.compute import as_guest
from rhoselect.config import Config
from rhoselect.data import Dataset
from rhoselect.data.il_table import IlTable
from rhoselect.errors import ConfigError, IrreducibleLossError
from rhoselect.inputs import open_dataset
from rhoselect.models.reference import ReferenceMetadata, save_reference
from rhoselect.trainer.fit.fitter import Fitter
from rhoselect.trainer.fit.training import (
    SILENT,
    FitOptions,
    FitProgress,
    SmallModel,
    check_batch,
    fit_config,
)

DEFAULTS = FitOptions()


def irreducible_config(data: str, model: str, sets: Sequence[str] = ()) -> Config:
    """The configuration of a fit, with a learning rate that falls from 3e-3 to 0 along a cosine
    unless ``sets`` say otherwise; see ``fit_config``."""
    return fit_config(data, model, sets, {"schedule": "cosine", "lr": 3e-3})


def fit_holdout(
    config: Config,
    options: FitOptions = DEFAULTS,
    split: str = "holdout",
    progress: FitProgress = SILENT,
) -> tuple[IlTable, nn.Module]:
    """The irreducible losses of the train split under a model of ``split``, and that model.

    This is Algorithm 1, lines 1 and 2; of its epochs the one with the lowest loss on the train
    split is kept. Raises NonFiniteLossError, IrreducibleLossError if ``split`` overlaps the train
    split, unless ``config.il.overlap`` is "allow", and UserError for what cannot be used.
    """
    dataset = open_dataset(config)
    train, holdout = dataset.split("train"), dataset.split(split)
    overlaps = max(train.start, holdout.start) < min(train.stop, holdout.stop)
    if overlaps and config.il.overlap != "allow":
        raise IrreducibleLossError(
            f"split {split}: its points {[holdout.start, holdout.stop]} overlap the train split"
            f" {[train.start, train.stop]}; make a holdout with 'rhoctl data import --holdout"
            " FRACTION', cross-fit (--folds K), or allow the overlap (--overlap allow)"
        )
    check_batch(options.batch, len(holdout), repr(split))
    model = SmallModel.build(config, dataset)
    progress.begin(1, options.epochs, len(holdout) // options.batch)
    fitter = _fitter(model, dataset, config, options, progress)
    with as_guest(model.replica.device):
        return fitter.holdout(train, holdout, split)


def fit_folds(
    config: Config, folds: int, options: FitOptions = DEFAULTS, progress: FitProgress = SILENT
) -> IlTable:
    """The irreducible losses of the train split under ``folds`` models: each scores a fold of it
    and has learnt from all its other points, so that no holdout is needed.

    Raises NonFiniteLossError, and UserError for what cannot be used.
    """
    dataset = open_dataset(config)
    train = dataset.split("train")
    if not 2 <= folds <= len(train):
        raise ConfigError(f"folds: got {folds}, allowed 2 to the {len(train)} of 'train'")
    learnt = len(train) - -(-len(train) // folds)
    check_batch(options.batch, learnt, f"'train' without a fold of {folds}")
    model = SmallModel.build(config, dataset)
    progress.begin(folds, options.epochs, learnt // options.batch)
    with as_guest(model.replica.device):
        return _fitter(model, dataset, config, options, progress).folds(train, folds)


def score_reference(config: Config, options: FitOptions = DEFAULTS) -> tuple[IlTable, nn.Module]:
    """The irreducible losses of the train split under the model of ``config`` as it is, with its
    weights from ``config.model.weights`` if that is set; and that model. Of ``options`` only
    ``tokens`` counts.

    The caller must make sure that the model was not trained on the train split: this function
    cannot check it. Raises NonFiniteLossError, and UserError for what cannot be used.
    """
    dataset = open_dataset(config)
    model = SmallModel.build(config, dataset)
    fitter = _fitter(model, dataset, config, options, SILENT)
    with as_guest(model.replica.device):
        return fitter.reference(dataset.split("train")), model.network


def save_model(path: Path, model: nn.Module, config: Config, table: IlTable) -> None:
    """Write the model that gave ``table`` for ``il.weights``, so that a run trains it further."""
    about = table.metadata
    metadata = ReferenceMetadata(
        config.model.factory,
        config.model.args,
        about.fingerprint,
        about.holdout,
        about.seconds,
        about.flops,
        about.data,
    )
    save_reference(path, model, metadata)


def _fitter(
    model: SmallModel,
    dataset: Dataset,
    config: Config,
    options: FitOptions,
    progress: FitProgress,
) -> Fitter:
    fingerprint, keys = dataset.fingerprint, config.data_keys
    return Fitter(model, fingerprint, config.trainer, config.seed, options, progress, keys)
