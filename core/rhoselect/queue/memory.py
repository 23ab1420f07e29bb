"""The queue inside one process. Runs without workers use it; other backends must behave like it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from threading import Condition
from typing import NamedTuple

import numpy as np

from rhoselect.queue.base import HELPERS, best, slices
from rhoselect.types import ChunkScores, Positions, QueueStats, Stage, Ticket, TopK


class _Name(NamedTuple):
    """A stage of a window. Names sort in claim order: by window, the shortlist first."""

    window: int
    candidates: bool


@dataclass
class _Stage:
    """An open stage; a chunk is in ``todo``, leased, or in ``done``."""

    version: int
    chunks: int
    todo: set[int]
    positions: list[Positions] | None
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

    A lease expires ``lease_s`` seconds after its claim. ``clock`` returns seconds and is used for
    leases only; waits always take real time.
    """

    at_hand = True

    def __init__(self, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._changed = Condition()
        self._forget()

    def _forget(self) -> None:
        self._stages: dict[_Name, _Stage] = {}
        self._leases: dict[tuple[_Name, int], _Lease] = {}
        self._closed = -1
        self._counts = _Counts()

    def open(self, window: int, version: int, chunks: int) -> None:
        """See `SelectionQueue.open`."""
        self._open(_Name(window, True), version, chunks, None)

    def open_shortlist(self, window: int, version: int, positions: Positions, chunk: int) -> None:
        """See `SelectionQueue.open_shortlist`."""
        parts = slices(positions, chunk)
        self._open(_Name(window, False), version, len(parts), parts)

    def _open(
        self, name: _Name, version: int, chunks: int, positions: list[Positions] | None
    ) -> None:
        with self._changed:
            if name.window <= self._closed or name in self._stages:
                return
            self._stages[name] = _Stage(version, chunks, set(range(chunks)), positions)
            self._changed.notify_all()

    def claim(
        self,
        worker: int,
        timeout_s: float,
        lanes: int = 1,
        loaded: int | None = None,
        only: Stage | None = None,
    ) -> Ticket | None:
        """See `SelectionQueue.claim`."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._take(worker, lanes, loaded, only), timeout_s
            )

    def _take(
        self, worker: int, lanes: int, loaded: int | None, only: Stage | None
    ) -> Ticket | None:
        for name in sorted(self._stages):
            stage = self._stages[name]
            if only and (only == "candidates") != name.candidates:
                continue
            may = {c for c in stage.todo if lanes and c % lanes == worker % HELPERS}
            if not may and (loaded is None or stage.version <= loaded):
                may = stage.todo
            if may:
                chunk = min(may)
                stage.todo.remove(chunk)
                self._leases[name, chunk] = _Lease(worker, self._clock() + self._lease_s)
                positions = None if stage.positions is None else stage.positions[chunk]
                return Ticket(name.window, chunk, stage.version, positions)
        return None

    def push(self, ticket: Ticket, scores: ChunkScores) -> bool:
        """See `SelectionQueue.push`."""
        name = _Name(ticket.window, ticket.positions is None)
        with self._changed:
            stage = self._stages.get(name)
            if stage is None or stage.version != ticket.version:
                self._counts.late += 1
                return False
            if ticket.chunk in stage.done:
                self._counts.repeated += 1
                return False
            stage.done[ticket.chunk] = scores
            stage.todo.discard(ticket.chunk)
            self._leases.pop((name, ticket.chunk), None)
            self._counts.accepted += 1
            self._counts.rejected += len(scores.rejected)
            self._changed.notify_all()
            return True

    def pop(self, window: int, k: int, timeout_s: float, shortlist: bool = False) -> TopK | None:
        """See `SelectionQueue.pop`."""
        name = _Name(window, not shortlist)
        with self._changed:
            if not self._changed.wait_for(lambda: self._complete(name), timeout_s):
                return None
            stage = self._stages[name]
            return best(window, stage.version, _joined(stage.done.values()), k)

    def _complete(self, name: _Name) -> bool:
        stage = self._stages.get(name)
        return stage is not None and len(stage.done) >= stage.chunks

    def peek(self, k: int) -> TopK | None:
        """See `SelectionQueue.peek`."""
        with self._changed:
            name = min((name for name in self._stages if name.candidates), default=None)
            if name is None:
                return None
            stage = self._stages[name]
            done = (replace(s, features=None) for s in stage.done.values())
            return best(name.window, stage.version, _joined(done), k)

    def rejected(self, window: int) -> list[int]:
        """See `SelectionQueue.rejected`."""
        with self._changed:
            stages = [stage for name, stage in self._stages.items() if name.window == window]
            pushed = [scores for stage in stages for scores in stage.done.values()]
            return sorted({int(position) for scores in pushed for position in scores.rejected})

    def close(self, window: int) -> None:
        """See `SelectionQueue.close`."""
        with self._changed:
            self._closed = max(self._closed, window)
            self._stages = {n: s for n, s in self._stages.items() if n.window > self._closed}
            self._leases = {
                (name, chunk): lease
                for (name, chunk), lease in self._leases.items()
                if name.window > self._closed
            }

    def reap(self, worker: int | None = None) -> int:
        """See `SelectionQueue.reap`."""
        with self._changed:
            now = self._clock()
            back = [
                ticket
                for ticket, lease in self._leases.items()
                if (lease.deadline <= now if worker is None else lease.worker == worker)
            ]
            for name, chunk in back:
                del self._leases[name, chunk]
                self._stages[name].todo.add(chunk)
            self._counts.reclaimed += len(back)
            self._changed.notify_all()
            return len(back)

    def stats(self) -> QueueStats:
        """See `SelectionQueue.stats`."""
        with self._changed:
            stages = self._stages.values()
            return QueueStats(
                windows=len({name.window for name in self._stages}),
                waiting=sum(len(s.todo) for s in stages),
                leased=len(self._leases),
                points=sum(len(c.positions) for s in stages for c in s.done.values()),
                oldest_version=min((s.version for s in stages), default=None),
                **vars(self._counts),
            )

    def destroy(self) -> None:
        """See `SelectionQueue.destroy`."""
        with self._changed:
            self._forget()


def _joined(done: Iterable[ChunkScores]) -> ChunkScores:
    """The points of all chunks of ``done``, which may be none."""
    none = ChunkScores(np.empty(0, np.uint64), np.empty(0, np.float64))
    parts = [none, *done]
    rows = [s.features for s in parts if s.features is not None and len(s.positions)]
    return ChunkScores(
        np.concatenate([s.positions for s in parts]),
        np.concatenate([s.scores for s in parts]),
        features=np.concatenate(rows) if rows else None,
    )
