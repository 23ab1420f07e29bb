"""A trainer from a run's inputs and its folder."""

from __future__ import annotations

from typing import Any

import torch

from rhoselect.compute import resolve_device
from rhoselect.errors import RunStopped
from rhoselect.inputs import RunInputs
from rhoselect.metrics import Metrics
from rhoselect.queue import SelectionQueue, StreamQueue
from rhoselect.scorer.build import build_scorer
from rhoselect.snapshots import SnapshotStore
from rhoselect.trainer.audit import Auditor
from rhoselect.trainer.gate import Gate
from rhoselect.trainer.ground import Ground, Source
from rhoselect.trainer.learner import Learner
from rhoselect.trainer.loop import Trainer
from rhoselect.trainer.picker import Picker
from rhoselect.trainer.rescorer import Rescorer
from rhoselect.trainer.runfolder import RunFolder, writing
from rhoselect.trainer.stream import Stream
from rhoselect.trainer.summary import summarise
from rhoselect.trainer.windows import Windows, lanes


def new_learner(inputs: RunInputs, device: torch.device) -> Learner:
    """The learner before its first step, with the second network if the run has one."""
    config, reference = inputs.config, None
    if inputs.reference is not None:
        lr = config.trainer.lr * config.il.update_lr_factor
        slower = config.trainer.model_copy(update={"lr": lr})
        reference = Learner(inputs.new_reference(), slower, config.seed, device)
    return Learner(inputs.new_model(), config.trainer, config.seed, device, reference)


def build_trainer(
    inputs: RunInputs,
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
    config, plan, scoring = inputs.config, inputs.plan, inputs.scoring
    device = resolve_device(config.trainer.device, "trainer.device")
    rescorer = inputs.new_replica(device)
    evaluator = inputs.new_evaluator(device)
    ground = Ground(
        inputs.train,
        inputs.test,
        inputs.classes,
        rescorer,
        rescorer.layout,
        evaluator,
        evaluator.layout,
    )
    learner = new_learner(inputs, device)
    hand = build_scorer(inputs, workers, lanes(config, workers), queue, snapshots, metrics)
    source: Source
    if isinstance(queue, StreamQueue):
        source = Stream(config, folder, queue, metrics, hand, workers)
    else:
        source = Windows(config, folder, plan, queue, metrics, hand, workers)
    again = Rescorer(config, plan, ground, scoring, learner, snapshots, metrics)
    here = None if config.scorers_rescore and workers else again
    picker = Picker(config, plan, scoring, source, here, device)
    auditor = Auditor(config, plan, again, metrics)
    return Trainer(
        config,
        folder,
        plan,
        ground,
        scoring,
        learner,
        source,
        picker,
        auditor,
        snapshots,
        metrics,
        gate or Gate(),
    )


def run_trainer(
    inputs: RunInputs, folder: RunFolder, trainer: Trainer, workers: int
) -> dict[str, Any]:
    """Train to the end, write the summary, return it. Raises RunStopped if stopped before."""
    progress = trainer.run()
    if progress.step < inputs.config.trainer.steps:
        raise RunStopped(
            f"stopped at step {progress.step}; continue with: rhoctl train --resume --run-dir"
            f" {folder.path}"
        )
    sample_indices = inputs.train.first(inputs.config.selection.n_b)
    sample = inputs.train.read(sample_indices, trainer.learner.device)
    summary = summarise(
        inputs.config,
        folder,
        workers,
        progress,
        trainer.learner.model,
        inputs.scoring,
        sample,
        trainer.metrics.busy_by_phase(),
        inputs.reference,
        None if trainer.learner.reference is None else trainer.learner.reference.model,
    )
    with writing(folder):
        trainer.records.finish(summary)
    return summary
