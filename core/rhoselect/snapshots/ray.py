"""Snapshots through the Ray object store: a board actor tells which object holds which version.

The trainer puts a snapshot into its node's object store and its reference on the board; waiting
scorers are long polls at the board, answered at once when the reference arrives. Ray moves the
bytes once per node.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import ray

from rhoselect.errors import SnapshotGoneError
from rhoselect.snapshots.codec import decode, encode
from rhoselect.types import Snapshot

GONE = "gone"


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

        def known() -> bool:
            return version in self._kept or version < self._below

        async with self._changed:
            try:
                if not known():  # a wait of no seconds would not even look
                    await asyncio.wait_for(self._changed.wait_for(known), timeout_s)
            except TimeoutError:
                return None
            return GONE if version < self._below else self._kept[version]

    async def retire(self, below: int) -> None:
        """Forget the versions below ``below``."""
        async with self._changed:
            self._below = max(self._below, below)
            self._kept = {v: r for v, r in self._kept.items() if v >= below}
            self._changed.notify_all()


def start_board() -> Any:
    """A board, as an actor handle to give to every ``RayStore``."""
    return ray.remote(Board).options(num_cpus=0, max_concurrency=1000).remote()


class RayStore:
    """One end of the store, over a board."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def publish(self, snapshot: Snapshot) -> None:
        # A numpy array, as Ray reads those without a copy.
        reference = ray.put(np.frombuffer(encode(snapshot), np.uint8))
        self._board.put.remote(snapshot.version, [reference])

    def get(self, version: int, timeout_s: float) -> Snapshot | None:
        answer = ray.get(self._board.get.remote(version, timeout_s))
        if answer is None:
            return None
        if answer == GONE:
            raise SnapshotGoneError(f"snapshot {version}: retired")
        return decode(ray.get(answer[0]).tobytes())

    def retire(self, below: int) -> None:
        self._board.retire.remote(below)

    def close(self) -> None:
        """The board goes with its run."""
