"""The queue of a rank: it has every k-th chunk of each window, and the scores of all chunks once
they were exchanged, so that each rank picks the same points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rhoselect.queue.memory import MemoryQueue
from rhoselect.ranks.group import Exchange
from rhoselect.types import ChunkScores, Stage, Ticket, TopK

HEAD = 4
"""Numbers [int64] before a chunk: chunk, finite scores, rejected points, features of a point or -1
for none."""


@dataclass(frozen=True)
class _Share:
    """The chunks of a window that this rank scores; ``done`` are scored."""

    version: int
    chunks: range
    done: dict[int, ChunkScores]


class SharedQueue(MemoryQueue):
    """A `MemoryQueue` for windows whose chunks are shared by the ranks of ``group``: chunk c is
    that of rank c mod k. Shortlists are not shared: each rank scores all of one."""

    def __init__(self, lease_s: float, group: Exchange) -> None:
        super().__init__(lease_s)
        self._group = group
        self._shares: dict[int, _Share] = {}
        self._exchanged = -1

    def open(self, window: int, version: int, chunks: int) -> None:
        """See `SelectionQueue.open`."""
        super().open(window, version, chunks)
        mine = range(self._group.rank, chunks, self._group.size)
        with self._changed:
            if window > self._exchanged:
                self._shares.setdefault(window, _Share(version, mine, {}))
                self._changed.notify_all()

    def claim(
        self,
        worker: int,
        timeout_s: float,
        lanes: int = 1,
        loaded: int | None = None,
        only: Stage | None = None,
    ) -> Ticket | None:
        """A ticket of this rank's share, or of a shortlist: see `SelectionQueue.claim`."""
        rank, size = self._group.rank, self._group.size
        if only != "candidates":
            wait_s = timeout_s if only else 0
            ticket = super().claim(rank, wait_s, only="shortlist")
            if ticket is not None or only:
                return ticket
        return super().claim(rank, timeout_s, size, loaded=-1, only="candidates")

    def push(self, ticket: Ticket, scores: ChunkScores) -> bool:
        """See `SelectionQueue.push`."""
        with self._changed:
            accepted = super().push(ticket, scores)
            share = self._shares.get(ticket.window)
            if accepted and share is not None and ticket.positions is None:
                share.done[ticket.chunk] = scores
            return accepted

    def pop(self, window: int, k: int, timeout_s: float, shortlist: bool = False) -> TopK | None:
        """See `SelectionQueue.pop`. Waits for the other ranks, too, once the own share is scored;
        raises LostRankError if they do not come."""
        if not shortlist and window > self._exchanged:
            with self._changed:
                if not self._changed.wait_for(lambda: self._is_scored(window), timeout_s):
                    return None
                share = self._shares.pop(window)
                self._exchanged = window
            for payload in self._group.gathered(packed(share.done)):
                for chunk, scores in unpacked(payload):
                    if chunk not in share.chunks:
                        super().push(Ticket(window, chunk, share.version), scores)
        return super().pop(window, k, timeout_s, shortlist)

    def _is_scored(self, window: int) -> bool:
        share = self._shares.get(window)
        return share is not None and len(share.done) == len(share.chunks)

    def reap(self, worker: int | None = None) -> int:
        """See `SelectionQueue.reap`. All tickets are this rank's, whatever its scorer's slot."""
        return super().reap(None if worker is None else self._group.rank)


def packed(chunks: Mapping[int, ChunkScores]) -> bytes:
    """The scores of chunks as bytes."""
    parts = list[bytes]()
    for chunk, done in chunks.items():
        width = -1 if done.features is None else done.features.shape[1]
        head = [chunk, len(done.positions), len(done.rejected), width]
        features = b"" if done.features is None else done.features.tobytes()
        parts += [np.array(head, np.int64).tobytes(), done.positions.tobytes()]
        parts += [done.scores.tobytes(), done.rejected.tobytes(), features]
    return b"".join(parts)


def unpacked(payload: bytes) -> Iterator[tuple[int, ChunkScores]]:
    """Chunks with their scores; inverse of ``packed``."""
    at = 0

    def take(dtype: Any, count: int) -> npt.NDArray[Any]:
        nonlocal at
        found = np.frombuffer(payload, dtype, count, at)
        at += found.nbytes
        return found

    while at < len(payload):
        chunk, points, rejected, width = take(np.int64, HEAD).tolist()
        positions, scores = take(np.uint64, points), take(np.float64, points)
        left_out, features = take(np.uint64, rejected), None
        if width >= 0:
            features = take(np.float32, points * width).reshape(points, width)
        yield chunk, ChunkScores(positions, scores, left_out, features)
