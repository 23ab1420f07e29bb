"""Snapshots through the Ray object store: a board actor tells which object holds which version.

The trainer puts a snapshot into its node's object store and its reference on the board; waiting
scorers are long polls at the board, answered at once when the reference arrives. Ray moves the
bytes once to each node, where all its scorers read the one copy.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import GetTimeoutError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from rhoselect.errors import SnapshotGoneError
from rhoselect.snapshots.base import Pieces, State
from rhoselect.snapshots.codec import decode, encode

GONE = "gone"
REPLY_S = 30.0  # for an answer to come back, beyond the time that the board may wait
FETCH_S = 300.0  # for a snapshot to come to this node


class Board:
    """Which object holds which version. Runs as an async Ray actor."""

    def __init__(self) -> None:
        self._kept: dict[int, list[Any]] = {}
        self._below = 0
        self._changed = asyncio.Condition()

    async def put(self, version: int, reference: list[Any]) -> None:
        """Announce a version; the reference comes in a list, lest Ray resolves it here."""
        async with self._changed:
            self._kept[version] = reference
            self._changed.notify_all()

    async def get(self, version: int, timeout_s: float) -> list[Any] | str | None:
        """The reference of ``version`` in a list, None after ``timeout_s``, or ``GONE``."""
        await self._until(lambda: version in self._kept or version < self._below, timeout_s)
        return GONE if version < self._below else self._kept.get(version)

    async def newest(self, timeout_s: float) -> int | None:
        """The newest version, None if there is none within ``timeout_s``."""
        await self._until(lambda: bool(self._kept), timeout_s)
        return max(self._kept, default=None)

    async def retire(self, below: int) -> None:
        """Forget the versions below ``below``."""
        async with self._changed:
            self._below = max(self._below, below)
            self._kept = {v: r for v, r in self._kept.items() if v >= self._below}
            self._changed.notify_all()

    async def _until(self, known: Callable[[], bool], timeout_s: float) -> None:
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                if not known():  # a wait of no seconds would not even look
                    await asyncio.wait_for(self._changed.wait_for(known), timeout_s)


def start_board() -> Any:
    """A board, as an actor handle to give to every ``RayStore``.

    On the node of the caller, without which there is no run: others may come and go.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Whatever a broken connection cost is asked again: it says the same as before.
    actor = ray.remote(Board).options(
        num_cpus=0, max_concurrency=1000, max_task_retries=-1, scheduling_strategy=here
    )
    return actor.remote()


class RayStore:
    """One end of the store, over a board."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def publish(
        self,
        version: int,
        tensors: Mapping[str, Tensor],
        layout: Mapping[str, torch.dtype],
        state: State,
    ) -> None:
        weights = {name: tensors[name].detach().to(dtype) for name, dtype in layout.items()}
        # A numpy array, as Ray reads those without a copy.
        reference = ray.put(np.frombuffer(encode(version, weights, state), np.uint8))
        self._board.put.remote(version, [reference])

    def load(
        self, version: int, into: Callable[[Pieces], None], timeout_s: float
    ) -> dict[str, Tensor] | None:
        answer = _answer(self._board.get.remote(version, timeout_s), timeout_s)
        if answer is None:
            return None
        if answer == GONE:
            raise SnapshotGoneError(f"snapshot {version}: retired")
        state: dict[str, Tensor] = {}

        def fetched() -> Pieces:
            # The object lies in the node's shared memory, once for all scorers there, and is read
            # in place. Weights are valid while it is held; the state outlives it.
            try:
                data = ray.get(answer[0], timeout=FETCH_S)
            except GetTimeoutError:
                raise SnapshotGoneError(
                    f"snapshot {version}: did not come within {FETCH_S:g} s"
                ) from None
            _, weights, found = decode(data)
            state.update({name: tensor.clone() for name, tensor in found.items()})
            yield from weights.items()

        into(fetched())
        return state

    def newest(self, timeout_s: float) -> int | None:
        newest: int | None = _answer(self._board.newest.remote(timeout_s), timeout_s)
        return newest

    def retire(self, below: int) -> None:
        self._board.retire.remote(below)

    def close(self) -> None:
        """The board goes with its run."""


def _answer(promise: Any, timeout_s: float) -> Any:
    """What the board says; None if it does not."""
    try:
        return ray.get(promise, timeout=timeout_s + REPLY_S)
    except GetTimeoutError:
        return None
