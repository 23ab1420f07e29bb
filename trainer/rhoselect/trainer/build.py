"""A trainer from a run's inputs and its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rhoselect.compute import make_current
from rhoselect.devices import own_device, trainer_device
from rhoselect.errors import RunStopped
from rhoselect.inputs import RunInputs
from rhoselect.inputs.probe import scoring_facts
from rhoselect.metrics import Metrics
from rhoselect.queue import SelectionQueue
from rhoselect.ranks import Group
from rhoselect.ranks.blocks import blocks
from rhoselect.ranks.gloo import GlooGroup
from rhoselect.ranks.picks import GivenBatches
from rhoselect.scorer.build import build_scorer
from rhoselect.selector import Selector
from rhoselect.selector.build import build_selector, rescores_here
from rhoselect.selector.fence import Fence, Fences
from rhoselect.snapshots import SnapshotStore
from rhoselect.snapshots.local import LocalStore
from rhoselect.trainer.checkpoint import LIVE, save_model
from rhoselect.trainer.control import TrainerControl
from rhoselect.trainer.follower import Follower
from rhoselect.trainer.hardware import agree
from rhoselect.trainer.learner import Learner
from rhoselect.trainer.loop import Trainer
from rhoselect.trainer.optimizers import matches
from rhoselect.trainer.resuming import how_to_resume
from rhoselect.trainer.runfolder import RunFolder, writing
from rhoselect.trainer.summary import summarise
from rhoselect.types import PROXY, REFERENCE


def new_learner(inputs: RunInputs, device: torch.device, group: Group | None = None) -> Learner:
    """The learner before its first step, with the networks that learn beside it. It shares its
    work with the other ranks of ``group``."""
    config, others = inputs.config, dict[str, Learner]()
    if inputs.reference is not None:
        lr = config.trainer.lr * config.il.update_lr_factor
        # Groups are of the model's names, and nothing but scores uses the second network.
        plain = {"lr": lr, "groups": [], "ema": 0.0, "label_smoothing": 0.0}
        slower = config.trainer.model_copy(update=plain)
        others[REFERENCE] = Learner(
            inputs.new_reference(), slower, config.seed, device, inputs.task
        )
        others[REFERENCE].keep(inputs.frozen_reference)
    if config.scorer.proxy:
        others[PROXY] = _proxy(inputs, device)
    learner = _learner(inputs, device, others, group)
    learner.keep(inputs.frozen)
    return learner


def _proxy(inputs: RunInputs, device: torch.device) -> Learner:
    """The network that scores in place of the model. It learns as the model does."""
    config, model = inputs.config, inputs.new_proxy()
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [g for g in config.trainer.groups if any(matches(g, *each) for each in named)]
    lr = config.trainer.lr * config.scorer.proxy_lr_factor
    like = config.trainer.model_copy(update={"lr": lr, "groups": groups, "ema": 0.0})
    task, tokens = inputs.task, inputs.tokens
    proxy = Learner(model, like, config.seed, device, task, tokens=tokens)
    proxy.keep(inputs.frozen_proxy)
    return proxy


def _learner(
    inputs: RunInputs,
    device: torch.device,
    others: Mapping[str, Learner],
    group: Group | None,
) -> Learner:
    """The one place that knows of ``trainer.parallel``."""
    config, model = inputs.config, inputs.new_model()
    if config.trainer.parallel == "fsdp":
        blocks(model, config.trainer.blocks)
        if group is not None:
            from rhoselect.trainer.sharded import ShardedLearner  # it takes a second to import

            assert isinstance(group, GlooGroup), "it is what the runtime makes"
            return ShardedLearner(inputs, model, device, others, group)
    task, tokens = inputs.task, inputs.tokens
    learner = Learner(model, config.trainer, config.seed, device, task, others, tokens)
    if group is not None:
        learner.join(group)
    return learner


def build_trainer(
    inputs: RunInputs,
    folder: RunFolder,
    queue: SelectionQueue,
    snapshots: SnapshotStore,
    metrics: Metrics,
    workers: int,
    control: TrainerControl | None = None,
    group: Group | None = None,
) -> Trainer:
    """The trainer of a run folder, with a scorer of its own in the slot after the workers'.

    ``control`` is where others request a pause, a checkpoint or a stop. It is the lead of ``group``
    if there is one.
    """
    control = control or TrainerControl()
    fence = Fences(folder.check_fence, control.check)
    learner, selector = _parts(inputs, folder, fence, queue, snapshots, metrics, workers, group)
    evaluator = None if learner.shards is not None else inputs.new_evaluator(learner.device)
    return Trainer(inputs, folder, learner, selector, evaluator, metrics, control)


def build_follower(
    inputs: RunInputs,
    folder: RunFolder,
    queue: SelectionQueue | None,
    group: Group,
    workers: int = 0,
) -> Follower:
    """A rank of ``group`` that is not its lead, with the device that ``inputs`` names. It scores
    what it gets from ``queue``, beside ``workers`` scorers; without one it does not score."""
    metrics, snapshots = Metrics(), LocalStore(lends=True)
    if queue is None:
        device = trainer_device(inputs.config)
        make_current(device)  # FSDP2 divides a model on the current GPU
        inputs.hold(device)
        learner = new_learner(inputs, device, group)
        return Follower(inputs, folder, learner, GivenBatches(group), metrics)
    learner, selector = _parts(inputs, folder, folder, queue, snapshots, metrics, workers, group)
    return Follower(inputs, folder, learner, selector, metrics)


def _parts(
    inputs: RunInputs,
    folder: RunFolder,
    fence: Fence,
    queue: SelectionQueue,
    snapshots: SnapshotStore,
    metrics: Metrics,
    workers: int,
    group: Group | None,
) -> tuple[Learner, Selector]:
    """What learns and what selects in this process. ``fence`` ends its waits for scores."""
    config, rank = inputs.config, 0 if group is None else group.rank
    who = f"rank {rank}" if rank else "the trainer"
    device, scoring = trainer_device(config), own_device(config)
    slot, share = workers + rank, config.lanes(workers)
    scorer = build_scorer(inputs, scoring, slot, share, queue, snapshots, metrics)
    if isinstance(snapshots, LocalStore) and snapshots.lends:
        scorer.weights.replica.share()
    agree(folder, who, scoring_facts(inputs, scorer.weights.replica))
    make_current(device)
    inputs.hold(device)
    # A picked point was read to be scored; by the time it is picked, so was a later window.
    inputs.train.keep((2 + config.selection.lag) * config.selection.n_B)
    rescores = rescores_here(config)
    selector = build_selector(inputs, scorer, rescores, queue, snapshots, fence, workers, rank)
    return new_learner(inputs, device, group), selector


def run_trainer(
    inputs: RunInputs, folder: RunFolder, trainer: Trainer, workers: int
) -> dict[str, Any]:
    """Train to the end, write the summary, return it. Raises RunStopped if stopped before."""
    progress = trainer.run()
    if progress.step < inputs.config.trainer.steps:
        raise RunStopped(
            f"stopped at step {progress.step}; continue with: {how_to_resume(folder.path)}"
        )
    busy = trainer.metrics.busy_by_phase()
    summary = summarise(inputs, folder, workers, progress, trainer.learner, busy)
    with writing(folder):
        save_model(folder, trainer.learner.evaluated)
        if inputs.config.trainer.ema:
            save_model(folder, trainer.learner.model, LIVE)
        trainer.records.finish(summary)  # the last file: it says "finished"
    return summary
