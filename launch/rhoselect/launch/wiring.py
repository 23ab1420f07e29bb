"""From a configuration to the parts of a run: checked inputs, then trainer and scorers.

``prepare`` reads and checks everything that a run stands on and touches nothing; it is all that
``--dry-run`` does. The trainer's process and every scorer's call it with the same configuration, so
every replica anywhere is built by the same code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rhoselect.compute import resolve, resolve_device
from rhoselect.config import Config
from rhoselect.data import open_data, train_points
from rhoselect.data.il_table import read_table
from rhoselect.errors import ConfigError, DataError, RunStopped
from rhoselect.importing import one_line
from rhoselect.launch.checks import check_passes, open_core_set
from rhoselect.launch.prepared import (
    Prepared,
    bare_replica,
    new_learner,
    new_model,
    new_replica,
)
from rhoselect.launch.reference import open_reference
from rhoselect.metrics import Metrics
from rhoselect.models.build import check_output
from rhoselect.queue import SelectionQueue, StreamQueue
from rhoselect.scorer.loop import Scorer
from rhoselect.selection import Scoring, get_function
from rhoselect.selection.interface import State
from rhoselect.snapshots import SnapshotReader, SnapshotStore
from rhoselect.streamed import open_plan
from rhoselect.trainer.audit import Auditor
from rhoselect.trainer.gate import Gate
from rhoselect.trainer.ground import Ground, Source
from rhoselect.trainer.loop import Trainer
from rhoselect.trainer.oversight import Oversight
from rhoselect.trainer.picker import Picker
from rhoselect.trainer.rescorer import Rescorer
from rhoselect.trainer.runfolder import RunFolder, writing
from rhoselect.trainer.stream import Stream
from rhoselect.trainer.summary import summarise
from rhoselect.trainer.windows import Windows, lanes
from rhoselect.types import Batch


def prepare(config: Config) -> Prepared:
    """Open and check data, irreducible losses, score function and model. Raises UserError."""
    config = resolve(config)
    dataset = open_data(config.data)
    for split in ("train", "test"):
        if split not in dataset.splits:
            raise DataError(
                f"data: split {split!r} is missing, got {', '.join(dataset.splits)}; a run trains"
                " on 'train' and evaluates on 'test'"
            )
    train, test = train_points(config, dataset), dataset.split("test")
    selection = config.selection
    plan = open_plan(config, train)
    function = get_function(selection.function)
    if function.whole_window and selection.mode == "stream" and config.capacity < selection.n_B:
        raise ConfigError(
            f"stream.capacity: got {config.capacity} points, allowed at least selection.n_B ="
            f" {selection.n_B} with selection.function {selection.function!r}, which picks from"
            " that many"
        )
    table = None
    if function.needs.il:
        if config.il.table is None:
            raise ConfigError(
                f"il.table: missing, selection.function {selection.function!r} needs it; make one"
                " with 'rhoctl il fit' and set il.table"
            )
        table = read_table(
            Path(config.il.table),
            dataset.fingerprint,
            dataset.splits["train"],
            config.il.overlap,
            config.data.cache_folder / "il",
        )
    core_set = open_core_set(config, dataset) if function.needs.core_set else None
    reference = open_reference(config, dataset) if function.needs.reference else None
    scoring = Scoring(function, table, core_set)
    prepared = Prepared(config, dataset, train, test, plan, scoring, reference)
    resolve_device(config.scorer.device, "scorer.device")
    resolve_device(config.trainer.device, "trainer.device")
    sample = train.read(train.first(2), torch.device("cpu"))
    check_output(config.model.factory, new_model(prepared), sample.inputs, dataset.classes)
    _check_scores(prepared, sample)
    return prepared


def build_scorer(
    prepared: Prepared,
    slot: int,
    lanes: int,
    queue: SelectionQueue | StreamQueue,
    snapshots: SnapshotReader,
    metrics: Metrics,
) -> Scorer:
    """The scorer of a slot. With device "cuda" the slots share out the GPUs of the machine."""
    config = prepared.config
    device = resolve_device(config.scorer.device, "scorer.device")
    if config.scorer.device == "cuda":
        device = torch.device("cuda", slot % torch.cuda.device_count())
    return Scorer(
        slot,
        lanes,
        config,
        prepared.plan,
        prepared.train,
        prepared.train.start,
        prepared.scoring,
        new_replica(prepared, config.selection.bn, device),
        queue,
        snapshots,
        metrics,
    )


def build_trainer(
    prepared: Prepared,
    folder: RunFolder,
    queue: SelectionQueue | StreamQueue,
    snapshots: SnapshotStore,
    metrics: Metrics,
    workers: int,
    gate: Gate | None = None,
) -> Trainer:
    """The trainer of a run folder, with a scorer of its own in the slot after the workers'.

    ``gate`` is where others may have it pause, save or stop.
    """
    config, plan, scoring = prepared.config, prepared.plan, prepared.scoring
    device = resolve_device(config.trainer.device, "trainer.device")
    rescorer = new_replica(prepared, config.selection.bn, device)
    evaluator = bare_replica(prepared, "running", device)
    ground = Ground(
        prepared.train,
        prepared.test,
        prepared.dataset.classes,
        rescorer,
        rescorer.layout,
        evaluator,
        evaluator.layout,
    )
    learner = new_learner(prepared, device)
    hand = build_scorer(prepared, workers, lanes(config, workers), queue, snapshots, metrics)
    source: Source
    if isinstance(queue, StreamQueue):
        source = Stream(config, folder, queue, metrics, hand, workers)
    else:
        source = Windows(config, folder, plan, queue, metrics, hand, workers)
    again = Rescorer(config, plan, ground, scoring, learner, snapshots, metrics)
    first_index = prepared.train.start
    picker = Picker(config, plan, first_index, scoring, source, again, device)
    auditor = Auditor(config, plan, first_index, again)
    oversight = Oversight(config, folder, source, picker, auditor, metrics, workers)
    return Trainer(
        config,
        folder,
        plan,
        ground,
        scoring,
        learner,
        source,
        picker,
        oversight,
        snapshots,
        metrics,
        gate or Gate(),
    )


def run_trainer(
    prepared: Prepared, folder: RunFolder, trainer: Trainer, workers: int
) -> dict[str, Any]:
    """Train to the end, write the summary, return it. Raises RunStopped if stopped before."""
    progress = trainer.run()
    if progress.step < prepared.config.trainer.steps:
        raise RunStopped(
            f"stopped at step {progress.step}; continue with: rhoctl train --resume --run-dir"
            f" {folder.path}"
        )
    sample_indices = prepared.train.first(prepared.config.selection.n_b)
    sample = prepared.train.read(sample_indices, trainer.learner.device)
    summary = summarise(
        prepared.config,
        folder,
        workers,
        progress,
        trainer.learner.model,
        prepared.scoring,
        sample,
        trainer.metrics.busy_by_phase(),
        prepared.reference,
        None if trainer.learner.reference is None else trainer.learner.reference.model,
    )
    with writing(folder):
        trainer.records.finish(summary)
    return summary


def _check_scores(prepared: Prepared, sample: Batch) -> None:
    """Raise ConfigError unless the score function gives one score a point for two points."""
    function, output = prepared.config.selection.function, None
    state: State = {}  # it travels with the weights
    if prepared.scoring.needs.forward:
        replica = new_replica(prepared, "running", torch.device("cpu"))
        output = replica(sample)
        check_passes(prepared.config, output, replica(sample))
        state = prepared.scoring.function.initial_state(prepared.dataset.classes)
    try:
        scores, _ = prepared.scoring(sample.indices, output, state)
    except Exception as error:
        raise ConfigError(
            f"selection.function {function}: fails on two points: {one_line(error)}"
        ) from None
    if scores.shape != (2,):
        raise ConfigError(
            f"selection.function {function}: for 2 points gives scores of shape"
            f" {list(scores.shape)}, allowed [2]; return one score a point"
        )
