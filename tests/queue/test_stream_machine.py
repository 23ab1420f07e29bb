"""Any sequence of calls on a rolling queue: as a plain model says, in memory and on a server."""

from __future__ import annotations

from typing import Any

import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from queue_helpers import Backend, chunk_scores

from rhoselect.queue import StreamQueue
from rhoselect.types import Ticket, TopK

CHUNKS, CAPACITY, AHEAD, MAX_AGE = 2, 6, 2, 3


def plain(result: object) -> object:
    """A result in a form that can be compared."""
    if isinstance(result, TopK):
        return result.version, result.positions.tolist(), result.scores.tolist()
    return result


class Stream(RuleBasedStateMachine):
    """Model: a list of (score, position, version), the step, and the number of the next chunk."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.admin = redis.Redis.from_url(url)
        self.backends = Backend(), Backend(url)
        bounds = (CHUNKS, CAPACITY, AHEAD, MAX_AGE)
        self.streams: list[StreamQueue] = [b.stream(*bounds) for b in self.backends]
        self.fresh = 0
        self.lose()

    def lose(self) -> None:
        self.points: list[tuple[float, int, int]] = []
        self.step: int | None = None
        self.next = 0

    def both(self, name: str, *args: Any) -> Any:
        """The result of the call, which is one."""
        memory, served = (plain(getattr(stream, name)(*args)) for stream in self.streams)
        assert memory == served
        return memory

    @rule(forth=st.integers(-2, 3))
    def advance(self, forth: int) -> None:
        step = max(0, (self.step or 0) + forth)
        self.both("advance", step)
        if self.step is None:
            self.next = step * CHUNKS
        self.step = max(self.step or 0, step)
        self.points = [p for p in self.points if p[2] >= self.step - MAX_AGE]

    @rule()
    def claim(self) -> None:
        ticket = self.both("claim", 0, 0.0)
        if self.step is None or self.next >= (self.step + AHEAD) * CHUNKS:
            assert ticket is None
            return
        assert ticket == Ticket(self.next // CHUNKS, self.next % CHUNKS, -1)
        assert ticket.window < self.step + AHEAD
        self.next += 1

    @rule(
        scores=st.lists(st.sampled_from([-1.0, 0.0, -0.0, 0.5, 0.1]), max_size=8),
        age=st.integers(0, 5),
        backwards=st.booleans(),
    )
    def push(self, scores: list[float], age: int, backwards: bool) -> None:
        version = max(0, (self.step or 0) - age)
        positions = range(self.fresh, self.fresh + len(scores))
        self.fresh += len(scores)
        points = dict(zip(positions[::-1] if backwards else positions, scores, strict=True))
        counted = self.both("push", Ticket(0, 0, version), chunk_scores(points))
        assert counted == (self.step is not None and version >= self.step - MAX_AGE)
        if counted:
            self.points += [(score, position, version) for position, score in points.items()]
            self.points.sort(key=lambda p: (-p[0], p[1]))
            del self.points[CAPACITY:]

    @rule(k=st.integers(1, CAPACITY))
    def take(self, k: int) -> None:
        taken = self.both("take", k, 0.0)
        if len(self.points) < k:
            assert taken is None
            return
        best, self.points = self.points[:k], self.points[k:]
        version, positions, scores = taken
        assert positions == [p[1] for p in best] and scores == [p[0] for p in best]
        assert version == min(p[2] for p in best)
        assert self.step is not None and version >= self.step - MAX_AGE

    @precondition(lambda self: self.step is not None)
    @rule()
    def flush(self) -> None:
        self.admin.flushall()
        self.streams[0].destroy()
        self.lose()

    @invariant()
    def the_bounds_hold(self) -> None:
        stats = self.both("stats")
        assert stats.points == len(self.points) <= CAPACITY
        assert stats.oldest_version == min((p[2] for p in self.points), default=None)
        free = 0 if self.step is None else (self.step + AHEAD) * CHUNKS - self.next
        assert stats.waiting == max(0, free)

    def teardown(self) -> None:
        for backend in self.backends:
            backend.clear()
        assert self.admin.dbsize() == 0
        self.admin.close()


def test_any_sequence_of_calls(embedded_url: str) -> None:
    run_state_machine_as_test(
        lambda: Stream(embedded_url),
        settings=settings(max_examples=60, stateful_step_count=30, deadline=None),
    )
