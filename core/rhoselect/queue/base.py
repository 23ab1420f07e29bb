"""The contract of a queue, for every backend. One test suite checks all of them.

A queue is soft state: losing all of it costs time, never correctness. The trainer opens windows,
scorers claim tickets and push scores, the trainer reads the best points of a complete window and
closes it after its step. Delivery is at least once; a repeated push changes nothing.

Who waits for whom: ``claim`` waits for an ``open`` (by the trainer) or a ``reap``; ``pop`` waits
for the ``push`` that completes its window.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from rhoselect.types import ChunkScores, Positions, QueueStats, Stage, Ticket, TopK

HELPERS = 10_000
"""A helper is a scorer outside the run's cluster, connected through the service (rhoctl scorer).

The queue identifies each scorer by one number, its slot. A run's own scorer in slot s has lane s,
with s < HELPERS. Helper h, which shares lane l with the run's own scorers, has slot
``(h + 1) * HELPERS + l``. So ``slot % HELPERS`` is the lane of any scorer.
"""


class SelectionQueue(Protocol):
    """Windows of scored candidates. Thread-safe. No call waits longer than its ``timeout_s``.

    A window has up to two stages: all its candidates, whose positions follow from the plan, and a
    shortlist of the best of them, which is scored again with newer weights. Each stage has its own
    tickets and scores and completes on its own. The tickets of a shortlist carry their positions;
    those of the candidates carry None.
    """

    at_hand: bool
    """Whether it is in this process, so that no call but a wait takes long."""

    def open(self, window: int, version: int, chunks: int) -> None:
        """Make ``chunks`` tickets of ``window`` available, to be scored with ``version``.

        Idempotent: a window that is open stays as it is, so a waiting trainer may repeat the call.
        A window at or below the last closed one stays closed. Raises FencedError, as ``pop`` does,
        once a newer generation of the run has opened a window.
        """
        ...

    def open_shortlist(self, window: int, version: int, positions: Positions, chunk: int) -> None:
        """Make the tickets of a window's shortlist available: ``positions`` [N] in slices of
        ``chunk`` points.

        Otherwise as ``open``. The candidates' stage of the window need not be open.
        """
        ...

    def claim(
        self,
        worker: int,
        timeout_s: float,
        lanes: int = 1,
        loaded: int | None = None,
        only: Stage | None = None,
    ) -> Ticket | None:
        """Lease a ticket to slot ``worker``: the lowest window first, in it the shortlist first.

        Chunk c belongs to lane c % ``lanes``. Worker w has lane w % `HELPERS`, or no lane if that
        is not below ``lanes``, which may be 0. Within a stage the worker gets the tickets of its
        own lane first, lowest chunk first. It then gets tickets of other lanes that it can score at
        once, those whose version is at most ``loaded``, the newest weights it has loaded (None: any
        version), before it gets tickets of a later window. So scorers claim tickets in equal shares
        before the weights exist, and no scorer idles when they do.

        ``only``: claim tickets of this stage only.

        Waits up to ``timeout_s`` (0: not at all); returns None if no ticket became available.
        """
        ...

    def push(self, ticket: Ticket, scores: ChunkScores) -> bool:
        """Add a chunk's scores and end its lease.

        Returns True if they were accepted. Returns False and changes nothing if the chunk is
        already done, if the window is closed or not open, or if the ticket's version is not the
        window's.
        """
        ...

    def pop(self, window: int, k: int, timeout_s: float, shortlist: bool = False) -> TopK | None:
        """Wait until all chunks of a stage of ``window`` are done and return its k best points;
        None after ``timeout_s``.

        A read: nothing is removed. Order: score descending, then position ascending. Returns fewer
        than k points if the stage holds fewer.
        """
        ...

    def peek(self, k: int) -> TopK | None:
        """The k >= 1 best candidates so far of the lowest open window; None if none is open.

        A read, for displays: in the order of ``pop``, without features.
        """
        ...

    def rejected(self, window: int) -> list[int]:
        """Positions of ``window`` (both stages) with a NaN or infinite score, ascending."""
        ...

    def close(self, window: int) -> None:
        """Delete both stages of ``window`` and of all below; later pushes to them are ignored."""
        ...

    def reap(self, worker: int | None = None) -> int:
        """Take back tickets and make them available again: those whose lease has expired, or, with
        ``worker``, all tickets leased to that slot.

        Returns how many. A scorer that restarts reaps its own slot first.
        """
        ...

    def stats(self) -> QueueStats:
        """The state of the queue and its counters."""
        ...

    def destroy(self) -> None:
        """Delete everything that this generation of the run has stored."""
        ...


def slices(positions: Positions, chunk: int) -> list[Positions]:
    """``positions`` [N] in slices of ``chunk``, one per ticket; the last one may be shorter."""
    assert len(positions), "a shortlist without points would never be claimed"
    return [positions[start : start + chunk] for start in range(0, len(positions), chunk)]


def best(window: int, version: int, points: ChunkScores, k: int) -> TopK:
    """The k best of a stage's ``points``: score descending, then position ascending."""
    values = points.scores + 0.0  # no -0.0: equal, one bit off
    rows = np.arange(len(values))
    if k < len(values):
        rows = np.flatnonzero(values >= np.partition(values, -k)[-k])  # all that may be among them
    rows = rows[np.lexsort((points.positions[rows], -values[rows]))[:k]]
    features = None if points.features is None or not len(rows) else points.features[rows]
    return TopK(window, version, points.positions[rows], values[rows], features)
