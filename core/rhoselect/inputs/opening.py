"""Opens what a run works on, from its configuration, in every process of the run.

No model is made and no device is used here: ``checks`` tries both, in one process.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rhoselect.config import Config, resolve
from rhoselect.data import Dataset, open_data, train_points
from rhoselect.data.il_table import IlTable, read_table
from rhoselect.devices import check_names
from rhoselect.errors import ConfigError, DataError, listed
from rhoselect.importing import load_object
from rhoselect.inputs.reference import open_reference
from rhoselect.inputs.run_inputs import RunInputs
from rhoselect.models.build import vocabulary_of
from rhoselect.plan import open_plan
from rhoselect.selection import Scoring, get_function
from rhoselect.selection.coreset import CoreSet, read_core_set
from rhoselect.selection.interface import ScoreFunction
from rhoselect.tasks import get_task


def open_inputs(config: Config) -> RunInputs:
    """Open and check data, irreducible losses and score function. Raises UserError."""
    config = resolve(config)
    check_names(config)
    dataset = open_dataset(config)
    for split in ("train", "test"):
        if split not in dataset.splits:
            raise DataError(
                f"data: split {split!r} is missing, got {listed(dataset.splits)}; a run trains"
                " on 'train' and evaluates on 'test'"
            )
    train, test = train_points(config, dataset), dataset.split("test")
    plan, function = open_plan(config, train), get_function(config.selection.function)
    check_use_of_proxy(config, function)
    if function.pointwise and not function.needs.forward:
        plan = replace(plan, chunk=plan.n_B)
    uses_table = function.needs.il or config.selection.tokens < 1
    table = _open_table(config, dataset) if uses_table else None
    core_set = _open_core_set(config, dataset) if function.needs.core_set else None
    reference = open_reference(config, dataset) if function.needs.reference else None
    scoring = Scoring(function, table, core_set)
    task, classes = get_task(config.task), dataset.classes
    return RunInputs(config, train, plan, scoring, classes, task, dataset, test, reference)


def open_dataset(config: Config) -> Dataset:
    """The data set of ``config``, for its task and model. Raises DataError, ConfigError or
    WaitError."""
    task = get_task(config.task)
    models = [config.model, config.scorer.proxy_model]
    known = [ids for model in models if model and (ids := vocabulary_of(model)) is not None]
    dataset = open_data(config.data, min(known, default=None), task)
    if dataset.classes < task.least_outputs:
        raise DataError(
            f"data: got labels of {dataset.classes} class, allowed two or more, as nothing can be"
            " learnt from one; import it again with the right label (of a table with --columns"
            " INPUTS,LABEL) or with points of other classes"
        )
    return dataset


def check_use_of_proxy(config: Config, function: ScoreFunction) -> None:
    """Raise ConfigError for a proxy of a run that cannot use one, or that cannot be imported."""
    proxy = config.scorer.proxy
    if proxy:
        load_object(proxy, "scorer.proxy")
    if proxy and not function.needs.forward:
        raise ConfigError(
            f"scorer.proxy: got {proxy!r} with selection.function = {config.selection.function!r},"
            " which scores nothing, allowed '' there; change one of the two"
        )


def _open_table(config: Config, dataset: Dataset) -> IlTable:
    """The irreducible losses of ``[il]``. Raises ConfigError or IrreducibleLossError."""
    tokens = config.selection.tokens < 1
    if config.il.table is None:
        key, option = f"selection.function {config.selection.function!r}", ""
        if tokens:
            key, option = f"selection.tokens = {config.selection.tokens}", " --tokens"
        raise ConfigError(
            f"il.table: missing, {key} needs it; make one with 'rhoctl il fit{option}' and set"
            " il.table"
        )
    return read_table(
        Path(config.il.table),
        dataset.fingerprint,
        dataset.splits["train"],
        config.il.overlap,
        config.data.cache_folder / "il",
        config.data_keys,
        tokens,
    )


def _open_core_set(config: Config, dataset: Dataset) -> CoreSet:
    """The core-set of ``[svp]``. Raises ConfigError."""
    if config.svp.table is None:
        raise ConfigError(
            f"svp.table: missing, selection.function {config.selection.function!r} needs it; make"
            " one with 'rhoctl svp fit' and set svp.table"
        )
    path, train = Path(config.svp.table), dataset.splits["train"]
    keep, keys = config.svp.keep, config.data_keys
    return read_core_set(path, dataset.fingerprint, train, keep, keys)
