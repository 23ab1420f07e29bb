"""The user's own data set and losses, in place of an imported data set and of cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rhoselect.client.batch import Collate, SelectionBatch, collate, tensors_in
from rhoselect.client.given_losses import given_losses
from rhoselect.config import Config
from rhoselect.data import SplitPoints
from rhoselect.data.repeatable import REPEATABLE, fault
from rhoselect.errors import ConfigError, DataError, ModelError
from rhoselect.importing import one_line
from rhoselect.models.replica import Numerics, Replica
from rhoselect.selection import Scoring, get_function
from rhoselect.types import Batch, ForwardOutput, Indices

Losses = Callable[[nn.Module, SelectionBatch], Any]
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
        _, labels = self.items(self.first(2), CPU)
        self.paired = labels is not None
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

    def items(self, indices: Indices, device: torch.device) -> tuple[Any, Tensor | None]:
        """Inputs and labels, if there are any, of ``indices`` [C]. Raises DataError."""
        return collate(self._items, indices, self._join, device)

    def read(self, indices: Indices, device: torch.device, epochs: Indices | None = None) -> Batch:
        """For ``UserReplica`` alone: ``inputs`` are what ``items`` gives."""
        return Batch(indices, cast(Tensor, self.items(indices, device)), torch.empty(0))

    def labels(self, indices: Indices) -> npt.NDArray[np.int64]:
        """Labels [C] of (inputs, label) pairs. Raises DataError for other items."""
        _, labels = self.items(indices, CPU)
        if labels is None:
            raise DataError("data: got items without a label, allowed (inputs, label) pairs here")
        return np.asarray(labels, np.int64)

    def clean_labels(self, indices: Indices) -> npt.NDArray[np.int64] | None:
        """None: the true labels are not known."""
        return None


class UserReplica(Replica):
    """A replica that computes losses with the user's function. Its output has losses only."""

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        device: torch.device,
        losses: Losses | None,
    ) -> None:
        scorer = config.scorer
        if scorer.fold_batchnorm:
            raise ConfigError(
                "scorer.fold_batchnorm: got true with losses of the loop's own, allowed false: they"
                " are given the model as it is"
            )
        numerics = Numerics(scorer.precision, config.selection.scoring_bn, scorer.channels_last)
        super().__init__(model, numerics, device)
        self._losses = losses or cross_entropy

    def __call__(self, batch: Batch) -> ForwardOutput:
        """Losses [C]."""
        count = len(batch.indices)
        with torch.inference_mode(), self._autocast():
            losses = self._losses(self._model, own_batch(batch, self.device))
        if not isinstance(losses, Tensor) or losses.shape != (count,):
            got = f"{list(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
            raise ModelError(
                f"losses: for {count} points gave {got}, allowed a tensor [{count}]: one a point,"
                ' as with reduction="none"'
            )
        return ForwardOutput(losses.float(), torch.empty(count, 0), torch.empty(0))


def own_batch(batch: Batch, device: torch.device) -> SelectionBatch:
    """What the user's losses are given for a batch that ``UserPoints.read`` put on ``device``."""
    inputs, labels = cast(tuple[Any, Tensor | None], batch.inputs)
    ones = torch.ones(len(batch.indices), device=device)
    return SelectionBatch(-1, torch.from_numpy(batch.indices), inputs, labels, ones)


def cross_entropy(model: nn.Module, batch: SelectionBatch) -> Tensor:
    """The cross-entropies [C] of (inputs, label) pairs, in nats. Raises ModelError."""
    return classifier_losses(model(batch.inputs), batch.labels)


def classifier_losses(logits: Any, labels: Any) -> Tensor:
    """The cross-entropies [C] of ``logits`` [C, K] and integer ``labels`` [C], in nats.

    Raises ModelError for anything else: of labels of several classes at once, of real numbers and
    of tokens, cross-entropy would give numbers that mean something else.
    """
    whole = isinstance(logits, Tensor) and isinstance(labels, Tensor)
    whole = whole and logits.ndim == 2 and labels.shape == logits.shape[:1]
    if not whole or logits.shape[1] < 2 or labels.is_floating_point() or labels.is_complex():
        raise ModelError(
            f"losses: got none with logits {_shape(logits)} and labels {_shape(labels)}, allowed"
            " logits [C, K] of two or more classes and integer labels [C]; name the loss of each"
            " point: losses(model, batch) -> [C], as in F.binary_cross_entropy_with_logits(…,"
            ' reduction="none").mean(1) for points of several classes'
        )
    classes, least, most = logits.shape[1], int(labels.min()), int(labels.max())
    if least < 0 or most >= classes:
        raise ModelError(
            f"losses: got a label {least if least < 0 else most}, allowed 0 to {classes - 1}: the"
            f" model gives {classes} logits"
        )
    return F.cross_entropy(logits.float(), labels.long(), reduction="none")


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{list(value.shape)} of {value.dtype}"
    return f"of type {type(value).__name__}"


def user_scoring(config: Config, losses: Losses | None, points: UserPoints, il: Any) -> Scoring:
    """The score function with the irreducible losses given. Raises UserError."""
    name = config.selection.function
    function = get_function(name)
    needs = function.needs
    if name not in BY_LOSS_ALONE and (":" not in name or needs.features or needs.passes):
        raise ConfigError(
            f"selection.function: got {name!r}, allowed with data of your own"
            f" {', '.join(BY_LOSS_ALONE)}, or 'module:object' that uses losses alone"
        )
    if losses is None and not points.paired:
        raise ConfigError(
            "losses: got none with items that are no (inputs, label) pairs, allowed"
            " losses(model, batch) -> [C]"
        )
    if not needs.il:
        return Scoring(function, None)
    return Scoring(function, given_losses(il, len(points), config))


def check_losses(replica: UserReplica, points: UserPoints) -> int:
    """Raise ModelError unless the losses of two points can be computed. Returns the FLOPs of one
    (matrix products and convolutions)."""
    indices = points.first(2)
    batch = points.read(indices, replica.device)
    try:
        with FlopCounterMode(display=False) as counter:
            replica(batch)
        return int(counter.get_total_flops()) // len(indices)
    except ModelError:
        raise
    except Exception as error:  # the user's code: anything may come out of it
        inputs, _ = cast(tuple[Any, Tensor | None], batch.inputs)
        if any(tensor.dtype == torch.float64 for tensor in tensors_in(inputs)):
            raise ModelError(
                "data: got inputs of float64, allowed float32, as a copy of the model scores in"
                f" scorer.precision: make items and model .float() ({one_line(error)})"
            ) from error
        raise ModelError(f"losses: fails on two points: {one_line(error)}") from error
