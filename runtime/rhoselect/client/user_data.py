"""The user's own data set and losses, in place of an imported data set and of cross-entropy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rhoselect.client.batch import Collate, SelectionBatch, collate, selection_batch
from rhoselect.client.given_losses import given_losses
from rhoselect.config import Config
from rhoselect.data import SplitPoints
from rhoselect.data.repeatable import REPEATABLE, fault
from rhoselect.errors import ConfigError, DataError, ModelError
from rhoselect.importing import one_line
from rhoselect.inputs.purity import POINTS, check_pure
from rhoselect.models.replica import Numerics, Replica
from rhoselect.nest import leaves, moved
from rhoselect.selection import Scoring, get_function
from rhoselect.tasks import Task, get_task
from rhoselect.tasks.classification import check_range
from rhoselect.types import Batch, Indices, Losses

LossFunction = Callable[[nn.Module, SelectionBatch], Any]
"""(model, batch of C points) -> their losses [C]."""

BY_LOSS_ALONE = ("reducible_loss", "loss", "irreducible_loss", "uniform")
CPU = torch.device("cpu")
READ_TWICE = 8  # items at even distances: a flip by chance escapes one of them half of the time


class UserPoints(SplitPoints):
    """A map-style data set as one split; its items may be anything that ``join`` joins."""

    def __init__(self, data: Any, join: Collate) -> None:
        map_style = hasattr(data, "__getitem__") and hasattr(data, "__len__") and len(data) > 0
        if isinstance(data, str) or not map_style:
            raise DataError(
                f"data: got a {type(data).__name__}, allowed a map-style data set: an object with"
                " __getitem__ and __len__ that is not empty; a folder is named in the"
                " configuration: data.path"
            )
        super().__init__((0, len(data)))
        self._items, self._join = data, join
        self._reading = threading.Lock()  # of workers: a data set may hold one open file
        self.classes = 0
        """How many logits the model gives, once that is known: labels are below it."""
        self.read(self.first(2), CPU)
        self._check_repeatable()

    def _check_repeatable(self) -> None:
        """Raises DataError if one of a few items differs when it is read again, or uses random
        numbers that other threads use."""
        for place in np.linspace(0, len(self) - 1, min(READ_TWICE, len(self))).astype(int).tolist():
            if wrong := fault(partial(self._items.__getitem__, place)):
                raise DataError(
                    f"data: got {wrong} when item {place} was read again, allowed {REPEATABLE}: a"
                    " point is scored and then trained on; augment the selected batch instead"
                )

    def read(self, indices: Indices, device: torch.device, epochs: Indices | None = None) -> Batch:
        """The points of ``indices`` [C], joined, on ``device``. Raises DataError, and ModelError
        for a label that the model has no logit for."""
        with self._reading:
            batch = Batch(indices, collate(self._items, indices, self._join))
        if self.classes:
            check_range(batch.labels, self.classes)  # on a GPU the process would end
        return Batch(indices, moved(batch.content, device))

    def labels(self, indices: Indices) -> npt.NDArray[np.int64]:
        """Labels [C] of (inputs, label) pairs. Raises DataError for other items."""
        labels = self.read(indices, CPU).labels
        if labels is None:
            raise DataError("data: got items without a label, allowed (inputs, label) pairs here")
        return np.asarray(labels, np.int64)

    def clean_labels(self, indices: Indices) -> npt.NDArray[np.int64] | None:
        """None: the true labels are not known."""
        return None


class GivenLosses(Task):
    """Losses of the loop's own, in place of those of ``task``, whose main figure they keep."""

    def __init__(self, given: LossFunction, task: Task) -> None:
        self._given, self.metric, self.direction = given, task.metric, task.direction

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        """Losses [C] alone, of what the loop's function calls a batch."""
        device = next((tensor.device for tensor in leaves(batch.content)), CPU)
        ones = torch.ones(len(batch.indices), device=device)
        return Losses(self._given(model, selection_batch(-1, batch, ones)))


def user_task(config: Config, given: LossFunction | None) -> Task:
    """The task of a loop, with its own losses if some are ``given``. Raises ConfigError."""
    task = get_task(config.task)
    return task if given is None else GivenLosses(given, task)


def user_replica(model: nn.Module, config: Config, device: torch.device, task: Task) -> Replica:
    """What scores: ``model`` as it is. Raises ConfigError."""
    scorer = config.scorer
    if scorer.fold_batchnorm:
        raise ConfigError(
            "scorer.fold_batchnorm: got true with losses of the loop's own, allowed false: they are"
            " given the model as it is"
        )
    numerics = Numerics(scorer.precision, config.selection.scoring_bn, scorer.channels_last)
    return Replica(model, numerics, device, task)


def user_scoring(config: Config, points: UserPoints, il: Any) -> Scoring:
    """The score function with the irreducible losses given. Raises UserError."""
    name = config.selection.function
    function = get_function(name)
    needs = function.needs
    if name not in BY_LOSS_ALONE and (":" not in name or needs.features or needs.passes):
        raise ConfigError(
            f"selection.function: got {name!r}, allowed with data of your own"
            f" {', '.join(BY_LOSS_ALONE)}, or 'module:object' that uses losses alone"
        )
    if not needs.il:
        return Scoring(function, None)
    return Scoring(function, given_losses(il, len(points), config))


def check_losses(replica: Replica, points: UserPoints) -> int:
    """Raise ModelError unless the losses of two points can be computed. Returns the FLOPs of one
    (matrix products and convolutions)."""
    indices = points.first(2)
    batch = points.read(indices, replica.device)
    try:
        replica.check(batch)
        with FlopCounterMode(display=False) as counter:
            output = replica(batch)
    except ModelError:
        raise
    except Exception as error:  # the user's code: anything may come out of it
        if any(tensor.dtype == torch.float64 for tensor in leaves(batch.inputs)):
            raise ModelError(
                "data: got inputs of float64, allowed float32, as a copy of the model scores in"
                f" scorer.precision: make items and model .float() ({one_line(error)})"
            ) from error
        raise ModelError(f"losses: fails on two points: {one_line(error)}") from error
    check_pure(replica, points, POINTS)
    if output.logits is not None:
        points.classes = output.logits.shape[1]
    return int(counter.get_total_flops()) // len(indices)
