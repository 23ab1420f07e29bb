"""Opens and checks what a run works on. Nothing is written: ``--dry-run`` does this and no more.

The trainer's process and every scorer's open the inputs from the same configuration.
"""

from __future__ import annotations

from pathlib import Path

import torch

from rhoselect.compute import resolve_device
from rhoselect.config import Config, resolve
from rhoselect.data import Dataset, open_data, train_points
from rhoselect.data.il_table import IlTable, read_table
from rhoselect.errors import ConfigError, DataError, listed
from rhoselect.inputs.checks import check_scores
from rhoselect.inputs.reference import open_reference
from rhoselect.inputs.run_inputs import RunInputs
from rhoselect.models.build import check_output
from rhoselect.plan import open_plan
from rhoselect.selection import Scoring, get_function
from rhoselect.selection.coreset import CoreSet, read_core_set


def open_inputs(config: Config) -> RunInputs:
    """Open and check data, irreducible losses, score function and model. Raises UserError."""
    config = resolve(config)
    dataset = open_data(config.data)
    for split in ("train", "test"):
        if split not in dataset.splits:
            raise DataError(
                f"data: split {split!r} is missing, got {listed(dataset.splits)}; a run trains"
                " on 'train' and evaluates on 'test'"
            )
    train, test = train_points(config, dataset), dataset.split("test")
    plan = open_plan(config, train)
    function = get_function(config.selection.function)
    table = _open_table(config, dataset) if function.needs.il else None
    core_set = _open_core_set(config, dataset) if function.needs.core_set else None
    reference = open_reference(config, dataset) if function.needs.reference else None
    scoring = Scoring(function, table, core_set)
    inputs = RunInputs(config, train, plan, scoring, dataset.classes, dataset, test, reference)
    resolve_device(config.scorer.device, "scorer.device")
    resolve_device(config.trainer.device, "trainer.device")
    sample = train.read(train.first(2), torch.device("cpu"))
    check_output(config.model.factory, inputs.new_model(), sample.inputs, inputs.classes)
    check_scores(inputs, sample)
    return inputs


def _open_table(config: Config, dataset: Dataset) -> IlTable:
    """The irreducible losses of ``[il]``. Raises ConfigError or IrreducibleLossError."""
    if config.il.table is None:
        raise ConfigError(
            f"il.table: missing, selection.function {config.selection.function!r} needs it; make"
            " one with 'rhoctl il fit' and set il.table"
        )
    return read_table(
        Path(config.il.table),
        dataset.fingerprint,
        dataset.splits["train"],
        config.il.overlap,
        config.data.cache_folder / "il",
    )


def _open_core_set(config: Config, dataset: Dataset) -> CoreSet:
    """The core-set of ``[svp]``. Raises ConfigError."""
    if config.svp.table is None:
        raise ConfigError(
            f"svp.table: missing, selection.function {config.selection.function!r} needs it; make"
            " one with 'rhoctl svp fit' and set svp.table"
        )
    path, train = Path(config.svp.table), dataset.splits["train"]
    return read_core_set(path, dataset.fingerprint, train, config.svp.keep)
