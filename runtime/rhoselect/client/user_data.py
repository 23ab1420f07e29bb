"""The user's own data set and losses, in place of an imported data set and of cross-entropy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from rhoselect.client.batch import Collate, SelectionBatch, collate, selection_batch
from rhoselect.client.given_losses import given_losses
from rhoselect.config import Config
from rhoselect.config.sections import TaskConfig
from rhoselect.data import SplitPoints
from rhoselect.data.collation import disordered, dropped
from rhoselect.data.ids import first_unknown
from rhoselect.data.repeatable import REPEATABLE, fault
from rhoselect.errors import ConfigError, DataError, ModelError, listed
from rhoselect.importing import one_line
from rhoselect.inputs.purity import POINTS, check_pure
from rhoselect.models.numerics import Numerics
from rhoselect.models.replica import Replica
from rhoselect.nest import Nest, leaves, moved
from rhoselect.selection import Scoring, get_function
from rhoselect.tasks import Task, get_task
from rhoselect.tasks.classification import check_range
from rhoselect.types import Batch, Indices, Losses

LossFunction = Callable[[nn.Module, SelectionBatch], Any]
"""(model, batch of C points) -> their losses [C], or ``rhoselect.tasks.Losses`` of them."""

BY_LOSS_ALONE = ("reducible_loss", "loss", "irreducible_loss", "uniform")
CPU = torch.device("cpu")
READ_TWICE = 8  # items at even distances: a flip by chance escapes one of them half of the time


class UserPoints(SplitPoints):
    """A map-style data set as one split; its items may be anything that ``join`` joins. Their
    ``input_ids`` are below ``vocabulary``, if the model tells it. Errors call the data ``name``."""

    def __init__(
        self, data: Any, join: Collate, vocabulary: int | None = None, name: str = "data"
    ) -> None:
        _check_map_style(data, name)
        super().__init__((0, len(data)))
        self._items, self._join, self._vocabulary, self.name = data, join, vocabulary, name
        self._reading = threading.Lock()  # of workers: a data set may hold one open file
        self.classes = 0
        """How many logits the model gives, once that is known: labels are below it."""
        self.read(self.first(2), CPU)
        self._check_repeatable()
        self._check_collation()

    def _check_repeatable(self) -> None:
        """Raises DataError if one of a few items differs when it is read again, or uses random
        numbers that other threads use."""
        for place in self.some(READ_TWICE).tolist():
            if wrong := fault(partial(self._items.__getitem__, place)):
                raise DataError(
                    f"{self.name}: got {wrong} when item {place} was read again, allowed"
                    f" {REPEATABLE}: a point is scored and then trained on; augment the selected"
                    " batch instead"
                )

    def _check_collation(self) -> None:
        """Raises DataError unless a batch has a row for each of its items, in their order, and
        depends on them alone."""
        places = self.some(3)
        wrong = dropped(collate(self._items, places, self._join, self.name), len(places))

        def joined(items: Sequence[Any]) -> Nest:
            return collate(items, np.arange(len(items)), self._join, self.name)

        if len(places) == 3 and not wrong:
            wrong = disordered(joined, [self._items[place] for place in places.tolist()])
        if wrong:
            raise DataError(
                f"{self.name}: items {listed(places.tolist())}: collate_fn gave {wrong}"
            )

    def some(self, count: int) -> Indices:
        """At most ``count`` indices, at even distances."""
        return np.linspace(0, len(self) - 1, min(count, len(self))).astype(np.int64)

    def read(self, indices: Indices, device: torch.device, epochs: Indices | None = None) -> Batch:
        """The points of ``indices`` [C], joined, on ``device``. Raises DataError, and ModelError
        for a label that the model has no logit for."""
        with self._reading:
            batch = Batch(indices, collate(self._items, indices, self._join, self.name))
        if self.classes:
            check_range(batch.labels, self.classes)  # on a GPU the process would end
        self._check_ids(batch)
        return Batch(indices, moved(batch.content, device))

    def _check_ids(self, batch: Batch) -> None:
        """Raises DataError for a token id that the model has no row for."""
        ids = batch.inputs.get("input_ids") if isinstance(batch.inputs, Mapping) else None
        if self._vocabulary is None or not isinstance(ids, Tensor) or ids.dtype != torch.int64:
            return
        if found := first_unknown(ids.numpy(force=True), self._vocabulary):
            raise DataError(
                f"{self.name}: got token id {found[1]} in item {batch.indices[found[0]]}, allowed 0"
                f" to {self._vocabulary - 1}, the rows of the model's embedding; use the model's"
                " tokenizer, or resize_token_embeddings"
            )

    def labels(self, indices: Indices) -> npt.NDArray[np.int64]:
        """Labels [C] of (inputs, label) pairs. Raises DataError for other items."""
        labels = self.read(indices, CPU).labels
        if labels is None:
            raise DataError("data: got items without a label, allowed (inputs, label) pairs here")
        return np.asarray(labels, np.int64)

    def clean_labels(self, indices: Indices) -> npt.NDArray[np.int64] | None:
        """None: the true labels are not known."""
        return None


def _check_map_style(data: Any, name: str) -> None:
    """Raise DataError for what gives no points by their places."""
    if isinstance(data, Mapping) and 0 not in data:
        raise DataError(
            f"{name}: got a {type(data).__name__} of {listed(map(str, data))}, allowed one data"
            " set; give one of these"
        )
    map_style = hasattr(data, "__getitem__") and hasattr(data, "__len__") and len(data) > 0
    if isinstance(data, str) or not map_style:
        raise DataError(
            f"{name}: got a {type(data).__name__}, allowed a map-style data set: an object with"
            " __getitem__ and __len__ that is not empty; a folder is named in the"
            " configuration: data.path"
        )


class GivenLosses(Task):
    """Losses of the loop's own, in place of those of ``task``, whose main figure they keep."""

    def __init__(self, given: LossFunction, task: Task) -> None:
        self._given, self.metric, self.direction = given, task.metric, task.direction

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        """Losses [C], of what the loop's function calls a batch, and what else it gives."""
        device = next((tensor.device for tensor in leaves(batch.content)), CPU)
        ones = torch.ones(len(batch.indices), device=device)
        found = self._given(model, selection_batch(-1, batch, ones))
        return found if isinstance(found, Losses) else Losses(found)


def user_task(config: Config, given: LossFunction | None) -> Task:
    """The task of a loop, with its own losses if some are ``given``. Raises ConfigError."""
    task = get_task(config.task)
    return task if given is None else GivenLosses(given, task)


def user_join(config: Config, given: Collate | None) -> Collate:
    """What joins items: ``given``, or what a task makes of its examples. The default task's takes
    tensors and integers alone; in its place torch's joins items of any kind. Raises ConfigError."""
    if given is not None:
        return given
    return default_collate if config.task == TaskConfig() else get_task(config.task).collate


def user_replica(model: nn.Module, config: Config, device: torch.device, task: Task) -> Replica:
    """What scores: ``model`` as it is. Raises ConfigError."""
    scorer = config.scorer
    if scorer.fold_batchnorm:
        raise ConfigError(
            "scorer.fold_batchnorm: got true with losses of the loop's own, allowed false: they are"
            " given the model as it is"
        )
    return Replica(model, Numerics.of(scorer, config.selection.scoring_bn), device, task)


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
    return Scoring(function, given_losses(il, points, config))


def check_losses(replica: Replica, points: UserPoints) -> int:
    """Raise ModelError unless the losses of two points can be computed. Returns the FLOPs of one
    (matrix products and convolutions)."""
    indices = points.first(2)
    batch = points.read(indices, replica.device)
    try:
        replica.check(batch)
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
    return replica.flops(batch) // len(indices)
