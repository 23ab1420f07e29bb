"""The rolling queue inside one process: the reference for every other backend."""

from __future__ import annotations

from threading import Condition

import numpy as np

from rhoselect.types import ChunkScores, QueueStats, Stage, Ticket, TopK

_Point = tuple[int, int]  # position, version


class MemoryStream:
    """A `StreamQueue` in this process's memory.

    ``chunks`` a window, ``capacity`` in points, ``ahead`` in windows, ``max_age`` in steps.
    """

    def __init__(self, chunks: int, capacity: int, ahead: int, max_age: int) -> None:
        self._chunks = chunks
        self._capacity = capacity
        self._ahead = ahead
        self._max_age = max_age
        self._changed = Condition()
        self._forget()

    def _forget(self) -> None:
        self._step: int | None = None
        self._next = 0
        self._points: dict[_Point, float] = {}
        self._counts = {"accepted": 0, "late": 0, "rejected": 0}

    def advance(self, step: int) -> None:
        """See `StreamQueue.advance`."""
        with self._changed:
            if self._step is None:
                self._next = step * self._chunks
            elif step <= self._step:
                return
            self._step = step
            oldest = step - self._max_age
            self._points = {p: score for p, score in self._points.items() if p[1] >= oldest}
            self._changed.notify_all()

    def _free(self) -> int:
        """Tickets that may be claimed."""
        if self._step is None:
            return 0
        return max(0, (self._step + self._ahead) * self._chunks - self._next)

    def claim(
        self,
        worker: int,
        timeout_s: float,
        lanes: int = 1,
        loaded: int | None = None,
        only: Stage | None = None,
    ) -> Ticket | None:
        """See `StreamQueue.claim`."""
        with self._changed:
            if not self._changed.wait_for(self._free, timeout_s):
                return None
            self._next += 1
            return Ticket(*divmod(self._next - 1, self._chunks), -1)

    def push(self, ticket: Ticket, scores: ChunkScores) -> bool:
        """See `StreamQueue.push`."""
        assert ticket.version >= 0, "the version that the scores were made with"
        with self._changed:
            if self._step is None or ticket.version < self._step - self._max_age:
                self._counts["late"] += 1
                return False
            self._counts["accepted"] += 1
            self._counts["rejected"] += len(scores.rejected)
            values = (scores.scores + 0.0).tolist()  # no -0.0: equal, one bit off
            for position, score in zip(scores.positions.tolist(), values, strict=True):
                self._points[position, ticket.version] = score
            for point in self._best()[self._capacity :]:
                del self._points[point]
            self._changed.notify_all()
            return True

    def _best(self) -> list[_Point]:
        """All points: score descending, then position ascending, then version descending."""
        return sorted(self._points, key=lambda p: (-self._points[p], p[0], -p[1]))

    def take(self, k: int, timeout_s: float) -> TopK | None:
        """See `StreamQueue.take`."""
        assert k >= 1
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._points) >= k, timeout_s):
                return None
            best = self._best()[:k]
            popped = self._popped(best)
            for point in best:
                del self._points[point]
            return popped

    def peek(self, k: int) -> TopK | None:
        """See `StreamQueue.peek`."""
        assert k >= 1
        with self._changed:
            return self._popped(self._best()[:k]) if self._points else None

    def _popped(self, best: list[_Point]) -> TopK:
        positions, versions = zip(*best, strict=True)
        scores = [self._points[point] for point in best]
        return TopK(-1, min(versions), np.array(positions, np.uint64), np.array(scores, np.float64))

    def reap(self, worker: int | None = None) -> int:
        """See `StreamQueue.reap`."""
        return 0

    def stats(self) -> QueueStats:
        """See `StreamQueue.stats`."""
        with self._changed:
            return QueueStats(
                windows=0,
                waiting=self._free(),
                leased=0,
                points=len(self._points),
                oldest_version=min((version for _, version in self._points), default=None),
                **self._counts,
            )

    def destroy(self) -> None:
        """See `StreamQueue.destroy`."""
        with self._changed:
            self._forget()
