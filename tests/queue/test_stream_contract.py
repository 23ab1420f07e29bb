"""The contract of the rolling queue (mode "stream"), for every backend."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from queue_helpers import Backend, chunk_scores, expected_order

from rhoselect.queue import StreamQueue
from rhoselect.types import QueueStats, Ticket


def scored(version: int) -> Ticket:
    return Ticket(0, 0, version)


@pytest.fixture
def stream(backend: Backend) -> StreamQueue:
    """Three chunks a window, 100 points, 2 windows ahead, at most 4 steps old."""
    return backend.stream(3, 100, 2, 4)


def test_chunks_come_in_the_order_of_the_plan_as_far_as_the_trainer_allows(
    stream: StreamQueue,
) -> None:
    assert stream.claim(0, 0.0) is None
    stream.advance(10)
    assert stream.stats().waiting == 6
    expected = [Ticket(window, chunk, -1) for window in (10, 11) for chunk in range(3)]
    assert [stream.claim(worker, 0.0) for worker in range(7)] == [*expected, None]
    stream.advance(10)
    assert stream.claim(0, 0.0) is None
    stream.advance(11)
    assert [stream.claim(0, 0.0) for _ in range(2)] == [Ticket(12, 0, -1), Ticket(12, 1, -1)]


def test_slow_scorers_skip_nothing(stream: StreamQueue) -> None:
    stream.advance(0)
    assert stream.claim(0, 0.0) == Ticket(0, 0, -1)
    stream.advance(9)
    assert stream.claim(0, 0.0) == Ticket(0, 1, -1)


def test_a_lost_queue_does_not_go_back_below_the_step(stream: StreamQueue) -> None:
    stream.advance(0)
    assert stream.claim(0, 0.0) is not None
    stream.destroy()
    assert stream.claim(0, 0.0) is None
    assert not stream.push(scored(9), chunk_scores({1: 1.0}))
    stream.advance(7)
    assert stream.claim(0, 0.0) == Ticket(7, 0, -1)


@settings(max_examples=30, deadline=None)
@given(
    points=st.dictionaries(
        st.integers(0, 2**64 - 1),
        st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0.0, -0.0])),
        min_size=1,
        max_size=30,
    ),
    data=st.data(),
)
def test_take_removes_the_best_and_keeps_every_bit(
    backend: Backend, points: dict[int, float], data: st.DataObject
) -> None:
    stream = backend.stream(1, 1000, 1, 5)
    stream.advance(3)
    items = list(points.items())
    cut = data.draw(st.integers(0, len(items)))
    assert stream.push(scored(2), chunk_scores(dict(items[:cut])))
    assert stream.push(scored(3), chunk_scores(dict(items[cut:])))
    order, first = expected_order(points), data.draw(st.integers(1, len(items)))
    for part in (order[:first], order[first:]):
        if not part:
            continue
        taken = stream.take(len(part), 0.0)
        assert taken is not None and taken.window == -1 and taken.features is None
        assert taken.positions.dtype == np.uint64 and taken.positions.tolist() == part
        want = np.array([points[position] for position in part]) + 0.0
        assert taken.scores.tobytes() == want.tobytes()
        assert taken.version == (2 if set(part) & set(dict(items[:cut])) else 3)
    assert stream.take(1, 0.0) is None
    stream.destroy()


def test_the_lowest_go_beyond_the_capacity_of_equal_ones_the_higher_positions(
    backend: Backend,
) -> None:
    stream = backend.stream(1, 3, 1, 5)
    stream.advance(0)
    assert stream.push(scored(0), chunk_scores({1: 1.0, 9: 1.0, 5: 1.0, 7: 2.0}))
    assert stream.push(scored(0), chunk_scores({2: 0.5}))
    assert stream.stats().points == 3
    taken = stream.take(3, 0.0)
    assert taken is not None and taken.positions.tolist() == [7, 1, 5]
    assert stream.stats() == QueueStats(0, 3 - 2, 0, 0, None, accepted=2)


def test_points_expire_by_age(stream: StreamQueue) -> None:
    stream.advance(0)
    assert stream.push(scored(0), chunk_scores({1: 9.0, 2: 8.0}))
    stream.advance(4)
    assert stream.push(scored(2), chunk_scores({3: 7.0}, rejected=[8]))
    assert stream.stats().oldest_version == 0
    stream.advance(5)
    assert not stream.push(scored(0), chunk_scores({4: 9.0}))
    assert stream.stats().oldest_version == 2
    taken = stream.take(1, 0.0)
    assert taken is not None and taken.positions.tolist() == [3] and taken.version == 2
    found = stream.stats()
    assert (found.points, found.accepted, found.late, found.rejected) == (0, 2, 1, 1)


def test_an_older_step_changes_nothing(stream: StreamQueue) -> None:
    stream.advance(8)
    before = stream.stats()
    stream.advance(2)
    assert stream.stats() == before
    assert not stream.push(scored(3), chunk_scores({1: 1.0}))


def test_a_push_far_beyond_the_stack_of_lua(backend: Backend) -> None:
    n, capacity = 12_345, 4_000
    stream = backend.stream(1, capacity, 1, 1)
    stream.advance(0)
    points = {position: float(position * 7919 % n) for position in range(n)}
    assert stream.push(scored(0), chunk_scores(points))
    taken = stream.take(3_000, 0.0)
    assert taken is not None and taken.positions.tolist() == expected_order(points)[:3_000]
    stream.advance(5)
    assert stream.stats().points == 0


def test_claimers_wait_for_advance(stream: StreamQueue) -> None:
    with ThreadPoolExecutor(4) as pool:
        waits = [pool.submit(stream.claim, worker, 30.0) for worker in range(4)]
        stream.advance(0)
        found = {wait.result(30.0) for wait in waits}
    assert found == {Ticket(0, 0, -1), Ticket(0, 1, -1), Ticket(0, 2, -1), Ticket(1, 0, -1)}


def test_takers_wait_for_enough_points(stream: StreamQueue) -> None:
    with ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(stream.take, k, 30.0) for k in (2, 3)]
        stream.advance(0)
        for position in range(5):
            assert stream.push(scored(0), chunk_scores({position: 1.0}))
        sizes = sorted(len(taken.positions) for wait in waits if (taken := wait.result(30.0)))
    assert sizes == [2, 3]


def test_a_wait_in_vain_ends(stream: StreamQueue) -> None:
    stream.advance(0)
    assert stream.take(1, 0.05) is None
    while stream.claim(0, 0.0) is not None:
        pass
    assert stream.claim(0, 0.05) is None


def test_a_run_in_threads_loses_and_repeats_nothing(backend: Backend) -> None:
    """Three scorers and a trainer at full speed: every point is taken once, within the bounds."""
    chunks, chunk, steps, ahead = 4, 5, 40, 2
    stream = backend.stream(chunks, 10_000, ahead, 10_000)
    step, taken = 0, []
    stop = threading.Event()
    overruns = []

    def score(worker: int) -> None:
        while not stop.is_set():
            ticket = stream.claim(worker, 0.2)
            if ticket is None:
                continue
            if ticket.window >= step + ahead + 1:  # the trainer may be between advance and `step`
                overruns.append(ticket)
            start = (ticket.window * chunks + ticket.chunk) * chunk
            points = {start + i: float(i) for i in range(chunk)}
            assert stream.push(Ticket(ticket.window, ticket.chunk, step), chunk_scores(points))

    with ThreadPoolExecutor(3) as pool:
        scorers = [pool.submit(score, worker) for worker in range(3)]
        for step in range(steps):
            stream.advance(step)
            found = stream.take(chunks * chunk, 30.0)
            assert found is not None
            taken += found.positions.tolist()
        stop.set()
        for scorer in scorers:
            scorer.result(30.0)
    assert not overruns
    assert len(taken) == len(set(taken)) == steps * chunks * chunk


def test_peek_shows_the_best_and_takes_nothing(stream: StreamQueue) -> None:
    stream.advance(5)
    assert stream.peek(2) is None
    stream.push(scored(4), chunk_scores({7: 0.25, 9: 0.5}))
    stream.push(scored(5), chunk_scores({8: 0.5}))
    best = stream.peek(2)
    assert best is not None and best.positions.tolist() == [8, 9]
    assert (best.window, best.version, best.scores.tolist()) == (-1, 4, [0.5, 0.5])
    assert stream.stats().points == 3
