"""The contract of a snapshot store, for every transport (one test suite holds them to it).

A snapshot is never materialised on its way: ``publish`` casts the trainer's own tensors straight
into the store, ``load`` hands them on piece by piece while they arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

Pieces = Iterator[tuple[str, Tensor]]
"""(name, tensor) pairs, each once; a tensor is valid until the next one is asked for.

On the CPU, but for the snapshots of one process, which stay on the trainer's device.
"""
State = Mapping[str, Tensor]


class SnapshotReader(Protocol):
    """Immutable snapshots by version, as those who load them see them."""

    def load(
        self, version: int, into: Callable[[Pieces], None], timeout_s: float
    ) -> dict[str, Tensor] | None:
        """Give exactly ``version`` to ``into`` and return its state.

        None, and ``into`` was not called, if it was not published within ``timeout_s`` (0: just
        look). Raises SnapshotGoneError once it was retired: no open window needs it any more. If
        that happens while it loads, ``into`` may have seen rubbish and the target must be loaded
        again.
        """
        ...

    def newest(self, timeout_s: float) -> int | None:
        """The newest version that can be loaded; None if there was none within ``timeout_s``."""
        ...

    def close(self) -> None:
        """Release what this end holds; the writer's end takes the snapshots with it."""
        ...


class SnapshotStore(SnapshotReader, Protocol):
    """One writer (the trainer), any number of readers."""

    def publish(
        self,
        version: int,
        tensors: Mapping[str, Tensor],
        layout: Mapping[str, torch.dtype],
        state: State,
    ) -> None:
        """Copy the ``tensors`` that ``layout`` names, cast to its dtypes, and wake the readers.

        The tensors may change as soon as this returns. ``layout``, shapes and the names in
        ``state`` are the same at every call of a run. Versions ascend.
        """
        ...

    def retire(self, below: int) -> None:
        """Forget the versions below ``below``."""
        ...
