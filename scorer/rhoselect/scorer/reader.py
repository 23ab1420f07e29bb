"""Claims tickets and reads their points ahead, in a thread of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch

from rhoselect.compute import single_threaded_pool
from rhoselect.nest import leaves
from rhoselect.selection.scoring import Prepared
from rhoselect.types import Batch, Indices, Positions, Ticket


@dataclass(frozen=True, eq=False)
class Work:
    """A ticket claimed at ``claimed_at`` (seconds of time.perf_counter), with the ``positions`` [C]
    and data-set ``indices`` [C] of its points. ``batch`` holds the points, or None if the method
    needs no forward; ``prepared`` is what else their scores need. On a GPU both are whole after
    ``arrival``."""

    ticket: Ticket
    positions: Positions
    indices: Indices
    batch: Batch | None
    prepared: Prepared
    claimed_at: float
    arrival: torch.cuda.Event | None = None


class Arriving:
    """Puts points on ``device`` beside the forwards that run there. On a GPU they have a stream of
    their own: on that of the forwards, they would arrive after the one before theirs. On a CPU this
    does nothing. Several threads may use it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def beside(self) -> Iterator[torch.cuda.Event | None]:
        """Copies and kernels of the block go to the stream. Gives the event that follows them."""
        if self._stream is None:
            yield None
            return
        with torch.cuda.stream(self._stream):
            arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
            yield arrival
            arrival.record(self._stream)

    def waited(self, batch: Batch, work: Work) -> Batch:
        """The ``batch`` of ``work`` for what the caller launches next, which waits for its arrival.
        Its memory is not used again before that has ended."""
        if work.arrival is not None:
            forwards = torch.cuda.current_stream(self._device)
            forwards.wait_event(work.arrival)
            for tensor in leaves([batch.content, vars(work.prepared)]):
                if tensor.is_cuda:
                    tensor.record_stream(forwards)
        return batch


class Reader:
    """Holds up to ``depth`` tickets, claimed and read by ``take(timeout_s)``.

    It claims only when the caller calls ``fill`` or ``next``. The scorer does so after a push, so
    that claims and reads do not compete with scoring when weights arrive. It reads with one CPU
    thread: OpenMP creates a team of threads for each thread that computes with several, and if
    there are more of them than cores, even the forward's team sleeps between two operations.
    """

    def __init__(self, take: Callable[[float], Work | None], depth: int, timeout_s: float) -> None:
        self._take, self._depth, self._timeout_s = take, depth, timeout_s
        self._pool = single_threaded_pool("reader")
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
        """The ticket with the lowest version among those held; None if there is none.

        With a ``timeout_s``, return None as soon as one claim times out: the caller calls again.
        With ``timeout_s`` 0, wait for all claims, because any of them may have a ticket.

        The order of claims is not used: a ticket that a dead scorer held is claimed late, but the
        weights of tickets claimed earlier may depend on it. The ticket is held until ``drop``.
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

    def hold(self, work: Work) -> None:
        """Hold a ticket that the caller claimed, even beyond ``depth``."""
        self._held.append(work)

    def drop(self, work: Work) -> None:
        """Stop holding a ticket."""
        self._held.remove(work)

    def clear(self) -> bool:
        """Drop all tickets. Returns False if there were none."""
        for asked in self._asked:
            if not asked.cancel() and (work := asked.result()) is not None:
                self._held.append(work)
        self._asked.clear()
        held, self._held = self._held, []
        return bool(held)
