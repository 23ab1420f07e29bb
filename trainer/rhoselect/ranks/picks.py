"""The batches of ranks that train and do not score: those that the lead selected."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from rhoselect.ranks.group import Group
from rhoselect.selection.interface import State
from rhoselect.selector import SelectedBatch
from rhoselect.selector.picker import PickedPoints
from rhoselect.types import Snapshot


class GivenBatches:
    """In place of a `Selector`: the batches that the lead of ``group`` gives by ``give``."""

    needs_losses = False  # the lead has all of them

    def __init__(self, group: Group) -> None:
        self._group = group

    def begin(self, step: int, state: State | None = None, old: Iterable[Snapshot] = ()) -> None:
        """Nothing is open here."""

    def next(self, step: int) -> SelectedBatch:
        """The batch of step ``step``. Raises LostRankError."""
        asked_at = time.perf_counter()
        points = unpacked(self._group.gathered(b"")[0])
        return SelectedBatch(step, step, points, 0, asked_at, time.perf_counter() - asked_at)

    def report(self, labels: Tensor, losses: Tensor) -> None:
        """Nothing depends on them here."""

    def publish(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """The lead publishes."""

    def share(self, workers: int) -> None:
        """Scorers are the lead's concern."""


def give(group: Group, points: PickedPoints) -> None:
    """The lead, once the others wait in ``GivenBatches.next``. Raises LostRankError."""
    group.gathered(packed(points))


def packed(points: PickedPoints) -> bytes:
    """What a step needs of the points, as bytes."""
    parts = [points.indices.astype(np.int64), points.epochs.astype(np.int64)]
    weights = b"" if points.weights is None else points.weights.numpy().tobytes()
    return b"".join(
        [np.int64(len(points.indices)).tobytes(), *(p.tobytes() for p in parts), weights]
    )


def unpacked(payload: bytes) -> PickedPoints:
    """Inverse of ``packed``, without the scores."""
    count = int(np.frombuffer(payload, np.int64, 1)[0])
    indices, epochs = np.frombuffer(payload, np.int64, 2 * count, 8).reshape(2, count).copy()
    given = np.frombuffer(payload, np.float32, offset=8 + 16 * count).copy()
    return PickedPoints(indices, epochs, [], torch.from_numpy(given) if len(given) else None)
