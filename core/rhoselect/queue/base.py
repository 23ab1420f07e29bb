"""The contracts of the queues, for every backend (one test suite a contract holds them to it).

A queue is soft state: losing all of it costs time, never correctness. The trainer opens windows,
scorers claim tickets and push scores, the trainer reads the best of a complete window and closes
it after its step. Delivery is at least once; a repeated push changes nothing.

Who waits for whom: ``claim`` waits for an ``open`` (by the trainer) or a ``reap``; ``pop`` waits
for the ``push`` that completes its window.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from rhoselect.types import ChunkScores, Positions, QueueStats, Stage, Ticket, TopK

HELPERS = 10_000
"""Slots from here on are those of helpers, who have no lane of their own."""


class SelectionQueue(Protocol):
    """Windows of scored candidates. Thread-safe. All waits are bounded by ``timeout_s``.

    A window has up to two stages, each with tickets, scores and an end of its own: its candidates
    by the plan, and a shortlist of them that is scored once more with newer weights. The tickets of
    a shortlist carry their positions; those of the candidates carry None.
    """

    def open(self, window: int, version: int, chunks: int) -> None:
        """Hand out ``chunks`` tickets for ``window``, to be scored with ``version``.

        Idempotent: an open window is left as it is, so a trainer that waits re-sends it. A window
        at or below the last closed one stays closed. Raises FencedError, as ``pop`` does, once a
        newer generation of the run has opened a window.
        """
        ...

    def open_shortlist(self, window: int, version: int, positions: Positions, chunk: int) -> None:
        """Hand out the tickets of a window's shortlist: ``positions`` [N] in slices of ``chunk``.

        Otherwise as ``open``. Independent of whether the candidates' stage is still known.
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

        Chunk c belongs to lane c % lanes; worker w looks after lane w % `HELPERS` (none if that is
        no lane). It is given the tickets of its own lane, lowest chunk first, and, before it goes
        on to a later window, those of other lanes that it could score at once: whose version is at
        most ``loaded``, the newest weights it has (None: those of any version). So tickets are
        claimed ahead of their weights in fair shares, and nobody idles while weights are there.

        ``only``: no tickets but those of this stage.

        Waits up to ``timeout_s`` (0: not at all); None when there was none.
        """
        ...

    def push(self, ticket: Ticket, scores: ChunkScores) -> bool:
        """Add a chunk's scores and drop its lease.

        True if they counted. False, and nothing changes, for a chunk that is already done, for a
        window that is closed or not open, and for another version than the window's.
        """
        ...

    def pop(self, window: int, k: int, timeout_s: float, shortlist: bool = False) -> TopK | None:
        """The k best points of a stage of ``window`` once all its chunks are done; None after
        ``timeout_s``.

        A read: nothing is removed. Order: score descending, then position ascending. Fewer than k
        points are returned when the stage holds fewer.
        """
        ...

    def peek(self, k: int) -> TopK | None:
        """The k >= 1 best candidates, so far, of the lowest open window; None if none is open.

        A read, for people: in the order of ``pop``, without features.
        """
        ...

    def rejected(self, window: int) -> list[int]:
        """Positions of ``window`` (both stages) with a NaN or infinite score, ascending."""
        ...

    def close(self, window: int) -> None:
        """Forget ``window`` and all below it, both stages; later pushes to them are ignored."""
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


def slices(positions: Positions, chunk: int) -> list[Positions]:
    """``positions`` [N] by ticket: slices of ``chunk``, the last one maybe shorter."""
    assert len(positions), "a shortlist without points would never be claimed"
    return [positions[start : start + chunk] for start in range(0, len(positions), chunk)]


@runtime_checkable
class StreamQueue(Protocol):
    """One rolling set of scored points (mode "stream"). Thread-safe. Waits end at ``timeout_s``.

    Built with ``chunks`` a window, a ``capacity`` in points, ``ahead`` (windows that scorers may
    be ahead of the trainer) and ``max_age`` (steps). Delivery is at most once: a chunk whose scorer
    died is a few candidates that this epoch does without.

    Who waits for whom: ``claim`` waits for ``advance`` (backpressure), ``take`` for ``push``.
    """

    def advance(self, step: int) -> None:
        """Tell that ``step`` optimizer steps are done. Idempotent; the waiting trainer re-sends it.

        Tickets of the windows below step + ahead may be claimed. A queue that is new, or was lost,
        starts with the chunks of window ``step``. Points scored with a version below
        step - max_age go.
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
        """The next chunk of the plan, version -1 (the scorer takes the newest weights).

        Who asks, with what weights, and how many they are makes no difference here.
        """
        ...

    def push(self, ticket: Ticket, scores: ChunkScores) -> bool:
        """Add points scored with ``ticket.version``; False if that is too old by now.

        False as well before the first `advance`, when nobody can tell. Beyond the capacity the
        lowest points go (of equal ones, the higher positions). Features are not kept.
        """
        ...

    def take(self, k: int, timeout_s: float) -> TopK | None:
        """Remove and return the k >= 1 best points; None if there were not k within ``timeout_s``.

        Order: score descending, then position ascending. ``TopK.version`` is the oldest one among
        them, ``TopK.window`` -1.
        """
        ...

    def peek(self, k: int) -> TopK | None:
        """As ``take``, but of what there is, and nothing is removed; None if there is nothing."""
        ...

    def reap(self, worker: int | None = None) -> int:
        """Nothing is leased: 0."""
        ...

    def stats(self) -> QueueStats:
        """A look at the queue: points, oldest version, and ``waiting``, tickets free to claim."""
        ...

    def destroy(self) -> None:
        """Delete everything that this run and generation holds."""
        ...
