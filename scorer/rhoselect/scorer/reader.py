"""Tickets claimed and read ahead, in a thread of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch

from rhoselect.types import Batch, Indices, Positions, Ticket


@dataclass(frozen=True, eq=False)
class Work:
    """A ticket claimed at ``claimed_at`` (seconds of time.perf_counter) with its points read:
    ``batch`` is None if no forward is needed."""

    ticket: Ticket
    positions: Positions
    indices: Indices
    batch: Batch | None
    claimed_at: float


class Reader:
    """Holds up to ``depth`` results of ``take(timeout_s)``; ``fill`` asks for what is missing.

    It never claims by itself: whoever scores asks when it has pushed, so that claims and reads do
    not compete with scoring at the moment when weights arrive. It reads with one CPU thread: each
    thread that computes with several has a team of its own, and with more of them than cores OpenMP
    lets even the forward's team sleep between any two operations.
    """

    def __init__(self, take: Callable[[float], Work | None], depth: int, timeout_s: float) -> None:
        self._take, self._depth, self._timeout_s = take, depth, timeout_s
        self._pool = ThreadPoolExecutor(1, "reader", torch.set_num_threads, (1,))
        self._asked: deque[Future[Work | None]] = deque()
        self._held: list[Work] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def fill(self) -> None:
        """Claim and read, in the background, until ``depth`` tickets are held."""
        while len(self._asked) + len(self._held) < self._depth:
            self._asked.append(self._pool.submit(self._take, self._timeout_s))

    def next(self) -> Work | None:
        """Of the tickets held, the one whose weights come first; None if there was none to claim.

        With a time to wait, the first claim in vain is an answer, as whoever scores asks again.
        Without one all claims are heard out: another may have a ticket that all wait for.

        Never the oldest one just so: what a dead scorer held comes late, and the weights that
        another ticket waits for may depend on it. It stays held until ``drop``.
        """
        self.fill()
        while self._asked and (self._asked[0].done() or not self._held):
            work = self._asked.popleft().result()
            if work is not None:
                self._held.append(work)
            elif self._timeout_s and not self._held:
                return None
        if not self._held:
            return None
        return min(self._held, key=lambda work: (work.ticket.version, work.ticket.window))

    def drop(self, work: Work) -> None:
        """Hold a ticket no more."""
        self._held.remove(work)

    def clear(self) -> bool:
        """Drop all tickets; False if there were none."""
        for asked in self._asked:
            if not asked.cancel() and (work := asked.result()) is not None:
                self._held.append(work)
        self._asked.clear()
        held, self._held = self._held, []
        return bool(held)
