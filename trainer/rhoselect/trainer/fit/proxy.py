"""Selection via proxy (Coleman et al. 2020): a small model of the train split, and how unsure it is
of each of its points."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import numpy.typing as npt

from rhoselect.compute import as_guest, threads
from rhoselect.config import Config
from rhoselect.errors import ConfigError
from rhoselect.inputs import open_dataset
from rhoselect.selection.coreset import ProxyMetadata
from rhoselect.selection.uncertainty import entropy
from rhoselect.trainer.fit.training import (
    SILENT,
    FitOptions,
    FitProgress,
    SmallModel,
    Subset,
    check_batch,
    epochs,
    fit_config,
    outputs,
)
from rhoselect.trainer.flops import forward_flops, step_flops
from rhoselect.types import ForwardOutput

DEFAULTS = FitOptions(batch=64, epochs=5)


def proxy_config(data: str, model: str, sets: Sequence[str] = ()) -> Config:
    """The configuration of ``fit_proxy``; see ``fit_config``."""
    return fit_config(data, model, sets, {})


def fit_proxy(
    config: Config, options: FitOptions = DEFAULTS, progress: FitProgress = SILENT
) -> tuple[npt.NDArray[np.float32], ProxyMetadata]:
    """Train ``config.model`` on the train split; the predictive entropies [N] of its N points in
    nats, and where they come from. ``options.patience`` is ignored.

    Raises NonFiniteLossError, and UserError for what cannot be used.
    """
    dataset = open_dataset(config)
    train = Subset.of(dataset.split("train"))
    check_batch(options.batch, len(train.indices), "'train'")
    model = SmallModel.build(config, dataset)
    device = model.replica.device
    steps = train.steps(options.batch)
    progress.begin(1, options.epochs, steps)
    started = time.monotonic()
    learner = model.learner(train, config.trainer, options, config.seed)
    with as_guest(device), threads(config.trainer.threads):
        for epoch, loss in epochs(learner, train, options, config.seed, progress):
            progress.epoch(epoch, loss)
        model.replica.load(learner.pieces(model.replica.layout))
        parts = outputs(model.replica, train, config.trainer.eval_batch)
        entropies = np.concatenate([_entropies(config, part) for part in parts])
        sample = train.points.read(train.indices[: options.batch], device)
        flops = (
            options.epochs * steps * options.batch * step_flops(model.task, learner.model, sample)
        )
        flops += len(entropies) * forward_flops(model.task, learner.model, sample)
    seconds = time.monotonic() - started
    tool = f"rhoselect {version('rhoselect')}"
    start, of, keys = train.points.start, dataset.fingerprint, config.data_keys
    return entropies, ProxyMetadata(of, start, model.name, tool, seconds, flops, keys)


def _entropies(config: Config, output: ForwardOutput) -> npt.NDArray[np.float32]:
    """The entropies [C] of what a classifier predicts. Raises ConfigError of any other task."""
    if output.logits is None:
        raise ConfigError(
            f"task.name: got {config.task.name!r}, which has losses alone, allowed a classifier for"
            " a proxy"
        )
    return entropy(output.logits.log_softmax(1)).cpu().numpy()
