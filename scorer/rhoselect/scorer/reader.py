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


@dataclass(frozen=True)
class Work:
    """A claimed ticket with its points read: ``batch`` is None if no forward is needed."""

    ticket: Ticket
    positions: Positions
    indices: Indices
    batch: Batch | None


class Reader:
    """Holds up to ``depth`` results of ``take(timeout_s)``; ``fill`` asks for what is missing.

    It never claims by itself: whoever scores calls ``fill`` when it has pushed, so that claims and
    reads do not compete with scoring at the moment when weights arrive.
    """

    def __init__(
        self, take: Callable[[float], Work | None], depth: int, threads: int, timeout_s: float
    ) -> None:
        self._take, self._depth, self._timeout_s = take, depth, timeout_s
        self._pool = ThreadPoolExecutor(1, "reader", torch.set_num_threads, (threads,))
        self._ahead: deque[Future[Work | None]] = deque()

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
        while len(self._ahead) < self._depth:
            self._ahead.append(self._pool.submit(self._take, self._timeout_s))

    def next(self) -> Work | None:
        """The oldest ticket held, or None if its claim found none."""
        self.fill()
        return self._ahead[0].result()

    def drop(self) -> None:
        """Forget the ticket that ``next`` gave."""
        self._ahead.popleft()

    def clear(self) -> None:
        """Forget all tickets held."""
        while self._ahead:
            if not self._ahead[0].cancel():
                self._ahead[0].result()
            self.drop()
