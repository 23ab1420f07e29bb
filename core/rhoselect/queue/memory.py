"""The queue inside one process: the reference for every other backend, and all that W = 0 needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition

import numpy as np

from rhoselect.types import ChunkScores, Popped, QueueStats, Ticket


@dataclass
class _Window:
    """One open window; a chunk is in ``todo``, leased, or in ``done``."""

    version: int
    chunks: int
    todo: set[int]
    done: dict[int, ChunkScores] = field(default_factory=dict)


@dataclass(frozen=True)
class _Lease:
    worker: int
    deadline: float


@dataclass
class _Counts:
    accepted: int = 0
    repeated: int = 0
    late: int = 0
    rejected: int = 0
    reclaimed: int = 0


class MemoryQueue:
    """A `SelectionQueue` in this process's memory.

    ``lease_s`` seconds after its claim a ticket may be reaped. ``clock`` returns seconds and is
    asked for leases only; waits always take real time.
    """

    def __init__(self, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._changed = Condition()
        self._forget()

    def _forget(self) -> None:
        self._windows: dict[int, _Window] = {}
        self._leases: dict[Ticket, _Lease] = {}
        self._closed = -1
        self._counts = _Counts()

    def open(self, window: int, version: int, chunks: int) -> None:
        """See `SelectionQueue.open`."""
        with self._changed:
            if window <= self._closed or window in self._windows:
                return
            self._windows[window] = _Window(version, chunks, set(range(chunks)))
            self._changed.notify_all()

    def claim(self, worker: int, timeout_s: float) -> Ticket | None:
        """See `SelectionQueue.claim`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._take(worker), timeout_s)

    def _take(self, worker: int) -> Ticket | None:
        for number in sorted(self._windows):
            window = self._windows[number]
            if window.todo:
                chunk = min(window.todo)
                window.todo.remove(chunk)
                ticket = Ticket(number, chunk, window.version)
                self._leases[ticket] = _Lease(worker, self._clock() + self._lease_s)
                return ticket
        return None

    def push(self, ticket: Ticket, scores: ChunkScores) -> bool:
        """See `SelectionQueue.push`."""
        with self._changed:
            window = self._windows.get(ticket.window)
            if window is None or window.version != ticket.version:
                self._counts.late += 1
                return False
            if ticket.chunk in window.done:
                self._counts.repeated += 1
                return False
            window.done[ticket.chunk] = scores
            window.todo.discard(ticket.chunk)
            self._leases.pop(ticket, None)
            self._counts.accepted += 1
            self._counts.rejected += len(scores.rejected)
            self._changed.notify_all()
            return True

    def pop(self, window: int, k: int, timeout_s: float) -> Popped | None:
        """See `SelectionQueue.pop`."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._complete(window), timeout_s):
                return None
            done = self._windows[window]
            return _best(window, done.version, list(done.done.values()), k)

    def _complete(self, number: int) -> bool:
        window = self._windows.get(number)
        return window is not None and len(window.done) == window.chunks

    def rejected(self, window: int) -> list[int]:
        """See `SelectionQueue.rejected`."""
        with self._changed:
            if window not in self._windows:
                return []
            done = self._windows[window].done.values()
            return sorted(int(p) for scores in done for p in scores.rejected)

    def close(self, window: int) -> None:
        """See `SelectionQueue.close`."""
        with self._changed:
            self._closed = max(self._closed, window)
            self._windows = {n: w for n, w in self._windows.items() if n > self._closed}
            self._leases = {t: le for t, le in self._leases.items() if t.window > self._closed}

    def reap(self, worker: int | None = None) -> int:
        """See `SelectionQueue.reap`."""
        with self._changed:
            now = self._clock()
            back = [
                ticket
                for ticket, lease in self._leases.items()
                if (lease.deadline <= now if worker is None else lease.worker == worker)
            ]
            for ticket in back:
                del self._leases[ticket]
                self._windows[ticket.window].todo.add(ticket.chunk)
            self._counts.reclaimed += len(back)
            self._changed.notify_all()
            return len(back)

    def stats(self) -> QueueStats:
        """See `SelectionQueue.stats`."""
        with self._changed:
            windows = self._windows.values()
            return QueueStats(
                windows=len(windows),
                waiting=sum(len(w.todo) for w in windows),
                leased=len(self._leases),
                points=sum(len(s.positions) for w in windows for s in w.done.values()),
                oldest_version=min((w.version for w in windows), default=None),
                **vars(self._counts),
            )

    def destroy(self) -> None:
        """See `SelectionQueue.destroy`."""
        with self._changed:
            self._forget()


def _best(window: int, version: int, done: list[ChunkScores], k: int) -> Popped:
    """The k best of all points in ``done``: score descending, then position ascending."""
    positions = np.concatenate([scores.positions for scores in done])
    values = np.concatenate([scores.scores for scores in done]) + 0.0  # no -0.0: equal, one bit off
    order = np.lexsort((positions, -values))[:k]
    rows = [s.features for s in done if s.features is not None and len(s.positions)]
    features = None
    if rows and len(order):
        assert sum(map(len, rows)) == len(positions), "features for some chunks only"
        features = np.concatenate(rows)[order]
    return Popped(window, version, positions[order], values[order], features)
