"""The contract of the selection queue, for every backend (one test suite holds them to it).

A queue is soft state: losing all of it costs time, never correctness. The trainer opens windows,
scorers claim tickets and push scores, the trainer reads the best of a complete window and closes
it after its step. Delivery is at least once; a repeated push changes nothing.

Who waits for whom: ``claim`` waits for an ``open`` (by the trainer) or a ``reap``; ``pop`` waits
for the ``push`` that completes its window.
"""

from __future__ import annotations

from typing import Protocol

from rhoselect.types import ChunkScores, Popped, QueueStats, Ticket


class SelectionQueue(Protocol):
    """Windows of scored candidates. Thread-safe. All waits are bounded by ``timeout_s``."""

    def open(self, window: int, version: int, chunks: int) -> None:
        """Hand out ``chunks`` tickets for ``window``, to be scored with ``version``.

        Idempotent: an open window is left as it is, so a trainer that waits re-sends it. A window
        at or below the last closed one stays closed.
        """
        ...

    def claim(self, worker: int, timeout_s: float) -> Ticket | None:
        """Lease the next ticket (lowest window, then lowest chunk) to slot ``worker``.

        Waits up to ``timeout_s`` (0: not at all); None when there was none.
        """
        ...

    def push(self, ticket: Ticket, scores: ChunkScores) -> bool:
        """Add a chunk's scores and drop its lease.

        True if they counted. False, and nothing changes, for a chunk that is already done, for a
        window that is closed or not open, and for another version than the window's.
        """
        ...

    def pop(self, window: int, k: int, timeout_s: float) -> Popped | None:
        """The k best points of ``window`` once all its chunks are done; None after ``timeout_s``.

        A read: nothing is removed. Order: score descending, then position ascending. Fewer than k
        points are returned when the window holds fewer.
        """
        ...

    def rejected(self, window: int) -> list[int]:
        """Positions of ``window`` whose score was NaN or infinite, ascending."""
        ...

    def close(self, window: int) -> None:
        """Forget ``window`` and all below it; later pushes to them are ignored."""
        ...

    def reap(self, worker: int | None = None) -> int:
        """Hand out again the tickets whose lease ran out, or all those leased to ``worker``.

        Returns how many. A restarted worker reaps its own slot first.
        """
        ...

    def stats(self) -> QueueStats:
        """A look at the queue."""
        ...

    def destroy(self) -> None:
        """Delete everything that this run and generation holds."""
        ...
