"""Snapshots within one process: the trainer's tensors or copies of them, on its device."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from rhoselect.errors import SnapshotGoneError
from rhoselect.snapshots.base import Pieces, State
from rhoselect.snapshots.copying import copy_all


class LocalStore:
    """A `SnapshotStore` for one process: a dictionary guarded by a condition variable.

    With ``lends`` it keeps the published tensors themselves. The writer may then change them only
    when no reader needs that version any more, and publishes the next one after the change.
    """

    def __init__(self, lends: bool = False) -> None:
        self.lends = lends
        self._kept: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
        self._below = 0
        self._changed = threading.Condition()

    def publish(
        self,
        version: int,
        tensors: Mapping[str, Tensor],
        layout: Mapping[str, torch.dtype],
        state: State,
    ) -> None:
        """See `SnapshotStore.publish`."""
        if self.lends:
            weights = {name: tensors[name].detach() for name in layout}
        else:
            weights = {n: torch.empty_like(tensors[n], dtype=dtype) for n, dtype in layout.items()}
            copy_all([*weights.values()], [tensors[name].detach() for name in weights])
        kept = weights, {name: t.detach().clone() for name, t in state.items()}
        with self._changed:
            self._kept[version] = kept
            self._changed.notify_all()

    def load(
        self, version: int, into: Callable[[Pieces], None], timeout_s: float
    ) -> dict[str, Tensor] | None:
        """See `SnapshotReader.load`."""
        with self._changed:
            self._changed.wait_for(
                lambda: version in self._kept or version < self._below, timeout_s
            )
            if version < self._below:
                raise SnapshotGoneError(f"snapshot {version}: retired, oldest is {self._below}")
            kept = self._kept.get(version)
        if kept is None:
            return None
        weights, state = kept
        into(iter(weights.items()))
        return dict(state)

    def retire(self, below: int) -> None:
        """See `SnapshotStore.retire`."""
        with self._changed:
            self._below = max(self._below, below)
            self._kept = {v: kept for v, kept in self._kept.items() if v >= self._below}
            self._changed.notify_all()

    def close(self) -> None:
        """See `SnapshotReader.close`."""
        self._kept.clear()
