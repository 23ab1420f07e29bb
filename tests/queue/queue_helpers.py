"""What the tests of the queue share: chunks of scores, and the order that they must come out in."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np

from rhoselect.queue import SelectionQueue
from rhoselect.queue.memory import MemoryQueue
from rhoselect.queue.redis import RedisQueue
from rhoselect.types import ChunkScores, Ticket


def chunk_scores(
    points: dict[int, float],
    rejected: Sequence[int] = (),
    features: Sequence[Sequence[float]] | None = None,
) -> ChunkScores:
    """The scores of one chunk, by position."""
    return ChunkScores(
        np.array(list(points), np.uint64),
        np.array(list(points.values()), np.float64),
        np.array(rejected, np.uint64),
        None if features is None else np.array(features, np.float32),
    )


def expected_order(points: dict[int, float]) -> list[int]:
    """Positions by score descending, then position ascending."""
    return sorted(points, key=lambda position: (-points[position], position))


def fill(queue: SelectionQueue, window: int, version: int, chunks: Sequence[ChunkScores]) -> None:
    """Open a window and push all its chunks, last one first."""
    queue.open(window, version, len(chunks))
    for number in reversed(range(len(chunks))):
        assert queue.push(Ticket(window, number, version), chunks[number])


def until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    """Ask again and again until it holds; fail with ``what`` otherwise."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"


_runs = itertools.count()


class Backend:
    """Makes fresh queues of one kind. Leases expire by `age` (memory) or by the server's time."""

    def __init__(self, url: str | None = None) -> None:
        self.url = url
        self._now = 0.0
        self._made: list[RedisQueue] = []

    def new(self, lease_s: float = 60.0) -> SelectionQueue:
        if self.url is None:
            return MemoryQueue(lease_s, clock=lambda: self._now)
        queue = RedisQueue(self.url, f"run-{next(_runs)}", 1, lease_s, 600.0, 20.0)
        self._made.append(queue)
        return queue

    def age(self, seconds: float) -> None:
        self._now += seconds

    def clear(self) -> None:
        for queue in self._made:
            queue.destroy()
            queue.disconnect()
        self._made.clear()
