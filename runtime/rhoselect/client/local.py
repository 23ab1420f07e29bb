"""Selection in the loop's own process, from the configuration's data set or from the user's own."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rhoselect import config as configuration
from rhoselect.client.agreeing import alike_weights, check_together
from rhoselect.client.batch import SelectionBatch, selection_batch
from rhoselect.client.helpers import Helpers, check_threads
from rhoselect.client.options import Options
from rhoselect.client.own_model import check_copyable, chosen_device, copied, unwrapped
from rhoselect.client.run_folders import open_folder
from rhoselect.client.user_data import (
    UserPoints,
    check_losses,
    user_join,
    user_replica,
    user_scoring,
    user_task,
)
from rhoselect.client.weights import OwnWeights
from rhoselect.compute import as_guest
from rhoselect.config import Config, resolve
from rhoselect.errors import ConfigError
from rhoselect.inputs import SelectionInputs, check_scoring, open_inputs
from rhoselect.inputs.probe import scoring_facts
from rhoselect.metrics import Metrics
from rhoselect.models.build import embedded_ids
from rhoselect.models.frozen import NOTHING, Frozen
from rhoselect.models.replica import Replica
from rhoselect.plan import open_plan
from rhoselect.queue.memory import MemoryQueue
from rhoselect.ranks import Exchange
from rhoselect.ranks.loops import by_lead, check_share, rows_of
from rhoselect.ranks.scores import SharedQueue
from rhoselect.scorer.loop import Scorer
from rhoselect.selector.build import build_session, check_servable, servable
from rhoselect.selector.fence import NoFence
from rhoselect.selector.session import Session
from rhoselect.selector.start import Start, check_start
from rhoselect.snapshots.local import LocalStore
from rhoselect.trainer.hardware import agree
from rhoselect.trainer.own_loop import GIVEN_DATA, LoopRecords
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.trainer.tracking import check_tracker


class Local:
    """A session in this process, which ends with it, if not before. All that score are replicas of
    one kind: the first here, each other one in a thread. ``point_flops``: see ``LoopRecords``.

    Each rank of ``group`` has one, with all weights. It scores its share of each window, and scores
    are exchanged; so all pick the same points, and no weights travel. Rank 0 keeps the records.
    """

    def __init__(
        self,
        inputs: SelectionInputs,
        replicas: Sequence[Replica],
        given: Options,
        start: Start,
        frozen: Frozen,
        group: Exchange,
        point_flops: int = 0,
    ) -> None:
        check_threads(inputs, replicas)
        _check_ranks(inputs.config, group, len(replicas) - 1)
        self._group, self._buffers = group, replicas[0].buffers
        self._inputs, self._run_dir, self._point_flops = inputs, given.run_dir, point_flops
        self._replica, *self._helping = replicas
        self._folder: RunFolder | None = None
        self.config, self.first_index = inputs.config, inputs.train.start
        self.steps, self.lag = inputs.config.trainer.steps, inputs.config.selection.lag
        self._open(start)
        self.frozen = frozen if self.layout else NOTHING

    def _open(self, start: Start) -> None:
        inputs, replica, step = self._inputs, self._replica, start.step
        check_start(inputs, start)
        several = self._group.size > 1
        facts = scoring_facts(inputs, replica) if several or self._run_dir is not None else {}
        check_together(self._group, inputs, step, facts)
        recorder, workers = None, len(self._helping)
        by_lead(self._group, lambda: self._open_folder(step))
        folder = self._folder
        if folder is not None:
            agree(folder, "this process", facts)
            recorder = LoopRecords(inputs, folder, step, workers, self._point_flops)
        queue, snapshots = self._queue(), LocalStore()
        lanes = inputs.config.lanes(workers)
        scorer = Scorer(inputs, replica, queue, snapshots, Metrics(), workers, lanes)
        helpers = Helpers(inputs, self._helping, queue, snapshots, folder or NoFence())
        session = build_session(inputs, scorer, queue, snapshots, helpers, workers, start, recorder)
        self.layout, self.needs_losses = session.layout, session.needs_losses
        self._session, self.close = session, weakref.finalize(self, _end, session, helpers)

    def _open_folder(self, step: int) -> bytes:
        if self._folder is None:
            self._folder = open_folder(self._run_dir, self._inputs, step)
        else:
            self._folder = RunFolder.resume(self._folder.path)
        return b""

    def _queue(self) -> MemoryQueue:
        lease_s = self._inputs.config.queue.lease_s
        one = self._group.size == 1
        return MemoryQueue(lease_s) if one else SharedQueue(lease_s, self._group)

    def checkpoint(self, step: int) -> Start:
        """Where a loop goes on that has taken ``step`` steps."""
        return self._session.checkpoint()

    def load(self, start: Start) -> None:
        """End the session, and begin another one in the same folder."""
        check_start(self._inputs, start)
        self.close()
        self._open(start)

    def publish(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Copy the weights."""
        if self.layout:
            tensors = alike_weights(self._group, version, tensors, self.layout, self._buffers)
        self._session.publish(version, tensors)

    def next(self, step: int, device: torch.device) -> SelectionBatch:
        """Score the window of a step and return its batch, or this rank's share of it."""
        with as_guest(self._replica.device, self.config.compute.tf32):
            selected = self._session.next(step)
        picked, rows = selected.points, rows_of(self._group)
        batch = self._session.train.read(picked.indices[rows], device, picked.epochs[rows])
        weights = torch.ones(len(picked.indices)) if picked.weights is None else picked.weights
        made = selection_batch(step, batch, weights[rows].float().to(device))
        scores = torch.tensor(picked.scores[rows], dtype=torch.float64)
        agreement = None if selected.audit is None else selected.audit.rank_agreement
        return replace(made, scores=scores, version=selected.version, agreement=agreement)

    def report(self, step: int, losses: Tensor) -> None:
        """Note the losses of the last batch."""
        self._session.report(step, losses.float().cpu())

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record values after ``step`` steps."""
        self._session.log(step, values)


def _end(session: Session, helpers: Helpers) -> None:
    try:
        session.close()
    finally:
        helpers.close()


def _check_ranks(config: Config, group: Exchange, workers: int) -> None:
    """Raise ConfigError for what several processes that select themselves cannot do."""
    check_share(config.selection.n_b, group.size)
    lag = config.selection.lag
    for name, got, why in (
        ("selection.lag", lag, "each process scores between its steps, so nothing would overlap"),
        ("workers", workers, "each process scores its share itself"),
    ):
        if group.size > 1 and got:
            raise ConfigError(
                f"{name}: got {got} with {group.size} processes, allowed 0: {why}; set 0, or select"
                " with a service: SelectionClient(model, ADDRESS)"
            )


def local_backend(
    config: Path | str | Mapping[str, Any],
    model: nn.Module,
    given: Options,
    start: Start,
    group: Exchange,
) -> Local:
    """Selection as ``rhoctl train --workers 0`` does it. Raises UserError."""
    settings, device = _placed(_load_config(config, []), model)
    inputs = open_inputs(settings)
    check_servable(inputs)
    check_start(inputs, start)
    with as_guest(device, settings.compute.tf32):
        check_scoring(inputs, device)
    replica = inputs.new_replica(device)
    if inputs.scoring.needs.forward:
        OwnWeights(replica.layout, inputs.frozen, group.size).of(model)
    helping = [inputs.new_replica(device) for _ in range(given.workers)]
    return Local(inputs, [replica, *helping], given, start, inputs.frozen, group)


def user_data_backend(
    config: Path | str | Mapping[str, Any],
    model: nn.Module,
    data: Any,
    given: Options,
    start: Start,
    group: Exchange,
) -> Local:
    """Selection from a data set of the loop's own, by its own losses. Raises UserError."""
    check_copyable(model)
    settings, device = _placed(_load_config(config, [f"data.dataset={GIVEN_DATA}"]), model)
    join, known = user_join(settings, given.collate_fn), embedded_ids(unwrapped(model))
    points = UserPoints(data, join, known)
    plan = open_plan(settings, points)
    task = user_task(settings, given.losses)
    scoring = user_scoring(settings, points, given.irreducible_losses)
    inputs = SelectionInputs(settings, points, plan, scoring, 0, task)
    check_start(inputs, start)
    copy, frozen = copied(model), NOTHING
    if settings.snapshots.only == "trainable":
        frozen = Frozen.some(copy, "the loop's model")
    replica = user_replica(copy, settings, device, task)
    replica.keep(frozen.hashes)
    with as_guest(device, settings.compute.tf32):
        point_flops = check_losses(replica, points)
    helping = [user_replica(copied(model), settings, device, task) for _ in range(given.workers)]
    for each in helping:
        each.keep(frozen.hashes)
    return Local(inputs, [replica, *helping], given, start, frozen, group, point_flops)


def _placed(config: Config, model: nn.Module) -> tuple[Config, torch.device]:
    """The resolved configuration, and the device that scores. Raises UserError."""
    scorer = config.scorer
    device = chosen_device(model, scorer.device, "scorer.device")
    check_tracker(config.trainer.tracker)
    if scorer.device == "auto":  # of a GPU without its number: a loop may resume on another
        scorer = scorer.model_copy(update={"device": device.type})
    return servable(resolve(config.model_copy(update={"scorer": scorer}))), device


def _load_config(config: Path | str | Mapping[str, Any], more: list[str]) -> Config:
    if isinstance(config, Mapping):
        tree = {key: dict(v) if isinstance(v, Mapping) else v for key, v in config.items()}
        return configuration.apply(tree, more)
    return configuration.load(Path(config), more)
