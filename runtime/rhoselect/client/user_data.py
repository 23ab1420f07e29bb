"""The user's own data set and losses, in place of an imported data set and of cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhoselect.client.batch import Collate, SelectionBatch, collate
from rhoselect.config import Config
from rhoselect.data import SplitPoints
from rhoselect.data.il_table import IlMetadata, IlTable
from rhoselect.data.repeatable import same
from rhoselect.errors import ConfigError, DataError, IrreducibleLossError, ModelError
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
        """Raises DataError if one of a few items differs when it is read again."""
        for place in np.linspace(0, len(self) - 1, min(READ_TWICE, len(self))).astype(int).tolist():
            if not same(self._items[place], self._items[place]):
                raise DataError(
                    f"data: got another item {place} when it was read again, allowed items that"
                    " depend on their index alone: a point is scored and then trained on; augment"
                    " the selected batch instead"
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
        numerics = Numerics(scorer.precision, config.selection.bn, scorer.channels_last)
        super().__init__(model, numerics, device)
        self._losses = losses or cross_entropy

    def __call__(self, batch: Batch) -> ForwardOutput:
        """Losses [C]."""
        inputs, labels = cast(tuple[Any, Tensor | None], batch.inputs)
        count = len(batch.indices)
        own = SelectionBatch(-1, torch.from_numpy(batch.indices), inputs, labels, torch.ones(count))
        with torch.inference_mode(), self._autocast():
            losses = self._losses(self._model, own)
        if not isinstance(losses, Tensor) or losses.shape != (count,):
            got = f"{list(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
            raise ModelError(
                f"losses: for {count} points gave {got}, allowed a tensor [{count}]: one a point,"
                ' as with reduction="none"'
            )
        return ForwardOutput(losses.float(), torch.empty(count, 0), torch.empty(0))


def cross_entropy(model: nn.Module, batch: SelectionBatch) -> Tensor:
    """The cross-entropies [C] of (inputs, label) pairs, in nats."""
    assert batch.labels is not None, "checked at start"
    return F.cross_entropy(model(batch.inputs).float(), batch.labels, reduction="none")


def user_scoring(config: Config, losses: Losses | None, points: UserPoints, il: Any) -> Scoring:
    """The score function with the irreducible losses [N] given. Raises UserError."""
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
    if il is None:
        raise IrreducibleLossError(
            f"irreducible_losses: got none, selection.function {name!r} needs one a point:"
            f" [{len(points)}], the losses of a model trained on other data"
        )
    values = np.asarray(il, np.float32)
    if values.shape != (len(points),) or not np.isfinite(values).all():
        raise IrreducibleLossError(
            f"irreducible_losses: got {list(values.shape)}, allowed [{len(points)}] finite numbers:"
            " one a point, in the order of the data"
        )
    return Scoring(function, IlTable(0, values, _GIVEN))


def check_losses(replica: UserReplica, points: UserPoints) -> None:
    """Raise ModelError unless the losses of two points can be computed."""
    indices = points.first(2)
    try:
        replica(points.read(indices, replica.device))
    except ModelError:
        raise
    except Exception as error:  # the user's code: anything may come out of it
        raise ModelError(f"losses: fails on two points: {one_line(error)}") from error


_GIVEN = IlMetadata("", "given by the loop", "", "", (0, 0), "", "", "", 0.0, 0, "reference")
