"""The contract of a snapshot store, for every transport. One test suite checks all of them.

A snapshot holds the weights of one version; the version is the number of optimizer steps that the
trainer had completed when it published them. No extra copy is made: ``publish`` casts the trainer's
own tensors straight into the store, ``load`` passes tensors on one by one as they arrive. ``into``
has read them when it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

Pieces = Iterator[tuple[str, Tensor]]
"""(name, tensor) pairs, each name once; tensors are valid until the load's ``into`` returns.

Tensors are on the CPU. `LocalStore` gives them on the trainer's device.
"""
State = Mapping[str, Tensor]
"""The selector's small tensors by name, such as the class weights of REDUCR."""


class SnapshotReader(Protocol):
    """The reading end: immutable snapshots by version."""

    def load(
        self, version: int, into: Callable[[Pieces], None], timeout_s: float
    ) -> dict[str, Tensor] | None:
        """Pass the weights of exactly ``version`` to ``into`` and return the state.

        Returns None, without calling ``into``, if the version is not published within
        ``timeout_s`` (0: do not wait). Raises SnapshotGoneError if the version was retired: no open
        window needs it. If it is retired during the load, ``into`` may have received wrong values,
        and the caller must load another version into the same target before using it.
        """
        ...

    def close(self) -> None:
        """Release the resources of this end. Closing the writer's end deletes the snapshots."""
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
        """Copy the ``tensors`` named in ``layout``, cast to its dtypes, and wake the readers.

        The caller may change the tensors as soon as this returns. ``layout``, the shapes and the
        names in ``state`` are the same at every call of a run. Versions ascend.
        """
        ...

    def retire(self, below: int) -> None:
        """Forget the versions below ``below``; loading one of them raises SnapshotGoneError."""
        ...
