"""What only some selection methods need of a run, checked before it starts."""

from __future__ import annotations

from pathlib import Path

import torch

from rhoselect.config import Config
from rhoselect.data import Dataset
from rhoselect.errors import ConfigError
from rhoselect.selection.coreset import CoreSet, read_core_set
from rhoselect.types import ForwardOutput


def open_core_set(config: Config, dataset: Dataset) -> CoreSet:
    """The core-set of ``[svp]``. Raises ConfigError."""
    if config.svp.table is None:
        raise ConfigError(
            f"svp.table: missing, selection.function {config.selection.function!r} needs it; make"
            " one with 'rhoctl svp fit' and set svp.table"
        )
    path, train = Path(config.svp.table), dataset.splits["train"]
    return read_core_set(path, dataset.fingerprint, train, config.svp.keep)


def check_passes(config: Config, first: ForwardOutput, second: ForwardOutput) -> None:
    """Raise ConfigError unless the stochastic passes of two forwards of the same points are random
    and the same. Nothing to check where there are none."""
    if first.passes is None or second.passes is None:
        return
    key = f"selection.function {config.selection.function}"
    if torch.allclose(first.passes, first.logits):
        raise ConfigError(
            f"{key}: needs a model with dropout, got one of {config.model.factory} whose"
            " stochastic passes are all alike; choose a model with dropout layers"
        )
    if not torch.equal(first.passes, second.passes):
        raise ConfigError(
            f"{key}: got stochastic passes that do not repeat, allowed a model that draws from"
            " torch's own generator and changes nothing in a forward but BatchNorm's statistics"
        )
