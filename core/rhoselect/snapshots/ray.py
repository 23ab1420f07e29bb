"""Snapshots through the Ray object store. A board actor maps each version to its object.

The trainer puts a snapshot into its node's object store and the object's reference on the board. A
waiting scorer has a call open at the board, which returns as soon as the reference arrives. Ray
copies the bytes once to each node, and all scorers of a node read that copy. Those of another node
than the trainer's check its checksum.
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
REPLY_S = 30.0  # longest delay of an answer, beyond the time that the board itself may wait
FETCH_S = 300.0  # longest transfer of a snapshot to this node


class Board:
    """Maps each version to the reference of its object. Runs as an async Ray actor."""

    def __init__(self) -> None:
        self._kept: dict[int, list[Any]] = {}
        self._below = 0
        self._changed = asyncio.Condition()

    async def put(self, version: int, place: list[Any]) -> None:
        """Announce a version: its object's reference and the node that made it. They are in a list,
        because Ray would resolve a bare reference."""
        async with self._changed:
            self._kept[version] = place
            self._changed.notify_all()

    async def get(self, version: int, timeout_s: float) -> list[Any] | str | None:
        """What ``put`` was given of ``version``; None after ``timeout_s``; ``GONE`` if retired."""
        await self._until(lambda: version in self._kept or version < self._below, timeout_s)
        return GONE if version < self._below else self._kept.get(version)

    async def retire(self, below: int) -> None:
        """Forget the versions below ``below``."""
        async with self._changed:
            self._below = max(self._below, below)
            self._kept = {v: r for v, r in self._kept.items() if v >= self._below}
            self._changed.notify_all()

    async def _until(self, known: Callable[[], bool], timeout_s: float) -> None:
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                if not known():  # wait_for with a timeout of 0 would not evaluate the condition
                    await asyncio.wait_for(self._changed.wait_for(known), timeout_s)


def start_board() -> Any:
    """Start a board. Returns its actor handle, which every `RayStore` of the run is given.

    The board runs on the caller's node: the run ends with that node, but survives other nodes.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Ray repeats a call whose connection broke; every method of the board may be repeated.
    actor = ray.remote(Board).options(
        num_cpus=0, max_concurrency=1000, max_task_retries=-1, scheduling_strategy=here
    )
    return actor.remote()


class RayStore:
    """One end of a `SnapshotStore` over ``board``, the handle that `start_board` returned."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def publish(
        self,
        version: int,
        tensors: Mapping[str, Tensor],
        layout: Mapping[str, torch.dtype],
        state: State,
    ) -> None:
        """See `SnapshotStore.publish`."""
        weights = {name: tensors[name].detach().to(dtype) for name, dtype in layout.items()}
        # A numpy array, as Ray reads those without a copy.
        reference = ray.put(np.frombuffer(encode(version, weights, state), np.uint8))
        self._board.put.remote(version, [reference, _node()])

    def load(
        self, version: int, into: Callable[[Pieces], None], timeout_s: float
    ) -> dict[str, Tensor] | None:
        """See `SnapshotReader.load`."""
        answer = _answer(self._board.get.remote(version, timeout_s), timeout_s)
        if answer is None:
            return None
        if answer == GONE:
            raise SnapshotGoneError(f"snapshot {version}: retired")
        reference, node = answer
        state: dict[str, Tensor] = {}

        def fetched() -> Pieces:
            # All scorers of a node read the one object in its shared memory, in place. Weights are
            # valid while this function holds the object; the state is cloned to outlive it.
            try:
                data = ray.get(reference, timeout=FETCH_S)
            except GetTimeoutError:
                raise SnapshotGoneError(
                    f"snapshot {version}: did not arrive on this node within {FETCH_S:g} s"
                ) from None
            _, weights, found = decode(data, travelled=node != _node())
            state.update({name: tensor.clone() for name, tensor in found.items()})
            yield from weights.items()

        into(fetched())
        return state

    def retire(self, below: int) -> None:
        """See `SnapshotStore.retire`."""
        self._board.retire.remote(below)

    def close(self) -> None:
        """Nothing to release: the board and its snapshots end with the run."""


def _node() -> str:
    """The node of this process."""
    node: str = ray.get_runtime_context().get_node_id()
    return node


def _answer(promise: Any, timeout_s: float) -> Any:
    """The board's answer; None if it does not answer in time."""
    try:
        return ray.get(promise, timeout=timeout_s + REPLY_S)
    except GetTimeoutError:
        return None
