"""Selection in the loop's own process, from the configuration's data set or from the user's own."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rhoselect import config as configuration
from rhoselect.client.batch import SelectionBatch
from rhoselect.client.options import Options, check_copyable, check_model
from rhoselect.client.run_folders import open_folder
from rhoselect.client.user_data import UserPoints, UserReplica, check_losses, user_scoring
from rhoselect.compute import repeatable, resolve_device
from rhoselect.config import Config, resolve
from rhoselect.data import SplitPoints
from rhoselect.inputs import SelectionInputs, check_scoring, open_inputs
from rhoselect.metrics import Metrics
from rhoselect.models.replica import Replica
from rhoselect.plan import open_plan
from rhoselect.queue.memory import MemoryQueue
from rhoselect.scorer.loop import Scorer
from rhoselect.selector.build import build_session, check_servable, servable
from rhoselect.selector.fence import NoFence
from rhoselect.selector.picker import PickedPoints
from rhoselect.selector.session import Session, check_first_step
from rhoselect.snapshots.local import LocalStore
from rhoselect.trainer.own_loop import GIVEN_DATA, LoopRecords


class Local:
    """A session in this process. It ends with the process, if not before."""

    def __init__(self, session: Session) -> None:
        self._session, self.close = session, weakref.finalize(self, session.close)
        self.steps = session.config.trainer.steps
        self.layout, self.needs_losses = session.layout, session.needs_losses

    def publish(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Copy the weights."""
        self._session.publish(version, tensors)

    def next(self, step: int, device: torch.device) -> SelectionBatch:
        """Score the window of a step and return its batch. Torch's random state is kept."""
        forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with repeatable(device), forked:
            picked = self._session.next(step).points
        inputs, labels = self._read(self._session.train, picked, device)
        weights = torch.ones(len(picked.indices)) if picked.weights is None else picked.weights
        return SelectionBatch(
            step, torch.from_numpy(picked.indices), inputs, labels, weights.float().to(device)
        )

    def report(self, step: int, losses: Tensor) -> None:
        """Note the losses of the last batch."""
        self._session.report(step, losses.float().cpu())

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record values after ``step`` steps."""
        self._session.log(step, values)

    def _read(
        self, points: SplitPoints, picked: PickedPoints, device: torch.device
    ) -> tuple[Any, Tensor | None]:
        if isinstance(points, UserPoints):
            return points.items(picked.indices, device)
        batch = points.read(picked.indices, device, picked.epochs)
        return batch.inputs, batch.labels


def local_backend(
    config: Path | str | Mapping[str, Any], model: nn.Module, given: Options, step: int
) -> Local:
    """Selection as ``rhoctl train --workers 0`` does it. Raises UserError."""
    settings = servable(resolve(_load_config(config, [])))
    inputs = open_inputs(settings)
    check_servable(inputs)
    check_first_step(settings, inputs.scoring, inputs.classes, step)
    device = resolve_device(settings.scorer.device, "scorer.device")
    check_scoring(inputs, device)
    replica = inputs.new_replica(device)
    check_model(model, replica.layout if inputs.scoring.needs.forward else {})
    return _local(inputs, replica, given, step)


def user_data_backend(
    config: Path | str | Mapping[str, Any],
    model: nn.Module,
    points: UserPoints,
    given: Options,
    step: int,
) -> Local:
    """Selection from a data set of the loop's own, by its own losses. Raises UserError."""
    check_copyable(model)
    settings = servable(resolve(_load_config(config, [f"data.dataset={GIVEN_DATA}"])))
    plan = open_plan(settings, points)
    scoring = user_scoring(settings, given.losses, points, given.irreducible_losses)
    check_first_step(settings, scoring, 0, step)
    device = resolve_device(settings.scorer.device, "scorer.device")
    replica = UserReplica(copied(model), settings, device, given.losses)
    point_flops = check_losses(replica, points)
    inputs = SelectionInputs(settings, points, plan, scoring, classes=0)
    return _local(inputs, replica, given, step, point_flops)


def copied(model: nn.Module) -> nn.Module:
    """A copy of a model. For mixed precision, accelerate puts another forward in place of the
    model's own; that one cannot be copied, and the copy has a precision of its own."""
    prepared, original = model.forward, model.__dict__.get("_original_forward")
    if original is None:
        return copy.deepcopy(model)
    try:
        model.forward = original
        return copy.deepcopy(model)
    finally:
        model.forward = prepared


def _local(
    inputs: SelectionInputs, replica: Replica, given: Options, step: int, point_flops: int = 0
) -> Local:
    """A session in this process: all that scores is ``replica``."""
    folder, recorder = open_folder(given.run_dir, inputs, step), None
    if folder is not None:
        recorder = LoopRecords(inputs, folder, step, 0, point_flops)
    queue, snapshots = MemoryQueue(inputs.config.queue.lease_s), LocalStore()
    scorer = Scorer(inputs, replica, queue, snapshots, Metrics(), slot=0, lanes=1)
    fence = folder or NoFence()
    return Local(build_session(inputs, scorer, queue, snapshots, fence, 0, step, recorder))


def _load_config(config: Path | str | Mapping[str, Any], more: list[str]) -> Config:
    if isinstance(config, Mapping):
        tree = {key: dict(v) if isinstance(v, Mapping) else v for key, v in config.items()}
        return configuration.apply(tree, more)
    return configuration.load(Path(config), more)
