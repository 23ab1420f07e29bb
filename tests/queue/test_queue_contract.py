"""The contract of the selection queue, for every backend."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from queue_helpers import Backend, chunk_scores, expected_order, fill, until

from rhoselect.queue import SelectionQueue
from rhoselect.types import QueueStats, Ticket

positions = st.integers(0, 2**64 - 1)
scores = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1.0, 1.0000000000000002, 5e-324, -1.7976931348623157e308]),
)


@pytest.fixture
def queue(backend: Backend) -> SelectionQueue:
    return backend.new()


@settings(max_examples=40, deadline=None)
@given(points=st.dictionaries(positions, scores, min_size=1, max_size=40), data=st.data())
def test_pop_orders_by_score_then_position_and_keeps_every_bit(
    backend: Backend, points: dict[int, float], data: st.DataObject
) -> None:
    queue = backend.new()
    cut, k = data.draw(st.integers(0, len(points))), data.draw(st.integers(0, len(points) + 3))
    items = list(points.items())
    fill(queue, 0, 7, [chunk_scores(dict(items[:cut])), chunk_scores(dict(items[cut:]))])
    popped = queue.pop(0, k, 0.0)
    assert popped is not None
    best = expected_order(points)[:k]
    assert popped.positions.dtype == np.uint64 and popped.positions.tolist() == best
    want = np.array([points[p] for p in best]) + 0.0
    assert popped.scores.dtype == np.float64 and popped.scores.tobytes() == want.tobytes()
    assert (popped.window, popped.version, popped.features) == (0, 7, None)
    queue.destroy()


def test_ties_come_by_position_ascending(queue: SelectionQueue) -> None:
    fill(queue, 0, 0, [chunk_scores({2**64 - 1: 1.0, 300: 1.0}), chunk_scores({2: 1.0, 0: 1.0})])
    popped = queue.pop(0, 3, 0.0)
    assert popped is not None and popped.positions.tolist() == [0, 2, 300]


def test_zeros_have_one_sign_in_a_large_window_too(queue: SelectionQueue) -> None:
    fill(queue, 0, 0, [chunk_scores(dict.fromkeys(range(500), -0.0))])
    popped = queue.pop(0, 500, 0.0)
    assert popped is not None and not np.signbit(popped.scores).any()


def test_pop_is_a_read(queue: SelectionQueue) -> None:
    fill(queue, 0, 0, [chunk_scores({1: 0.5, 2: 0.25})])
    for _ in range(3):
        popped = queue.pop(0, 1, 0.0)
        assert popped is not None and popped.positions.tolist() == [1]
    assert queue.stats().points == 2


def test_pop_returns_fewer_when_the_window_holds_fewer(queue: SelectionQueue) -> None:
    fill(queue, 0, 0, [chunk_scores({4: 1.0}, rejected=[5]), chunk_scores({}, rejected=[6])])
    popped = queue.pop(0, 10, 0.0)
    assert popped is not None and popped.positions.tolist() == [4]


def test_pop_of_a_window_without_usable_scores_is_empty(queue: SelectionQueue) -> None:
    fill(queue, 0, 0, [chunk_scores({}, rejected=[6, 2**64 - 1, 2])])
    popped = queue.pop(0, 10, 0.0)
    assert popped is not None and popped.positions.shape == popped.scores.shape == (0,)
    assert queue.rejected(0) == [2, 6, 2**64 - 1]
    assert queue.rejected(1) == []


def test_pop_waits_for_the_last_chunk(queue: SelectionQueue) -> None:
    queue.open(0, 0, 3)
    assert queue.push(Ticket(0, 2, 0), chunk_scores({1: 1.0}))
    assert queue.pop(0, 1, 0.0) is None
    with ThreadPoolExecutor(3) as pool:
        waits = [pool.submit(queue.pop, 0, 2, 30.0) for _ in range(3)]
        assert queue.push(Ticket(0, 0, 0), chunk_scores({2: 3.0}))
        assert queue.push(Ticket(0, 1, 0), chunk_scores({3: 2.0}))
        for wait in waits:
            popped = wait.result(30.0)
            assert popped is not None and popped.positions.tolist() == [2, 3]


def test_claim_waits_for_open(queue: SelectionQueue) -> None:
    assert queue.claim(0, 0.0) is None
    with ThreadPoolExecutor(4) as pool:
        waits = [pool.submit(queue.claim, worker, 30.0) for worker in range(4)]
        queue.open(3, 2, 4)
        claimed = {wait.result(30.0) for wait in waits}
    assert claimed == {Ticket(3, chunk, 2) for chunk in range(4)}


def test_claim_waits_for_reap(queue: SelectionQueue) -> None:
    queue.open(0, 0, 1)
    assert queue.claim(1, 0.0) == Ticket(0, 0, 0)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(queue.claim, 2, 30.0)
        assert queue.reap(1) == 1
        assert wait.result(30.0) == Ticket(0, 0, 0)


@pytest.mark.parametrize("call", ["claim", "pop"])
def test_a_wait_in_vain_takes_its_timeout(queue: SelectionQueue, call: str) -> None:
    start = time.monotonic()
    if call == "claim":
        assert queue.claim(0, 0.05) is None
    else:
        queue.open(0, 0, 1)
        assert queue.pop(0, 1, 0.05) is None
    assert 0.05 <= time.monotonic() - start < 10.0


def test_claim_takes_the_lowest_window_then_the_lowest_chunk(queue: SelectionQueue) -> None:
    for window in (10, 9, 100):
        queue.open(window, window - 1, 11)
    claimed = [queue.claim(0, 0.0) for _ in range(34)]
    in_order = [Ticket(window, chunk, window - 1) for window in (9, 10, 100) for chunk in range(11)]
    assert claimed == [*in_order, None]


def test_a_repeated_push_changes_nothing(queue: SelectionQueue) -> None:
    queue.open(0, 0, 2)
    assert queue.push(Ticket(0, 0, 0), chunk_scores({1: 1.0}, rejected=[2]))
    assert not queue.push(Ticket(0, 0, 0), chunk_scores({1: 9.0, 3: 9.0}, rejected=[4]))
    assert queue.push(Ticket(0, 1, 0), chunk_scores({5: 0.5}))
    assert not queue.push(Ticket(0, 0, 0), chunk_scores({1: 9.0}))
    popped = queue.pop(0, 9, 0.0)
    assert popped is not None
    assert popped.positions.tolist() == [1, 5] and popped.scores.tolist() == [1.0, 0.5]
    assert queue.rejected(0) == [2]
    assert queue.stats() == QueueStats(1, 0, 0, 2, 0, accepted=2, repeated=2, rejected=1)


def test_a_push_that_comes_late_or_with_another_version_changes_nothing(
    queue: SelectionQueue,
) -> None:
    queue.open(1, 5, 1)
    assert not queue.push(Ticket(0, 0, 5), chunk_scores({1: 1.0}))
    assert not queue.push(Ticket(1, 0, 4), chunk_scores({1: 1.0}))
    assert queue.stats() == QueueStats(1, 1, 0, 0, 5, late=2)
    queue.close(1)
    assert not queue.push(Ticket(1, 0, 5), chunk_scores({1: 1.0}, rejected=[3]))
    assert queue.stats() == QueueStats(0, 0, 0, 0, None, late=3)
    assert queue.rejected(1) == []


def test_a_push_counts_without_a_claim_and_takes_the_ticket_back(queue: SelectionQueue) -> None:
    queue.open(0, 0, 2)
    assert queue.push(Ticket(0, 0, 0), chunk_scores({1: 1.0}))
    assert queue.claim(0, 0.0) == Ticket(0, 1, 0)
    assert queue.claim(0, 0.0) is None


def test_open_again_leaves_the_window_as_it_is(queue: SelectionQueue) -> None:
    queue.open(0, 3, 3)
    assert queue.claim(0, 0.0) == Ticket(0, 0, 3)
    assert queue.push(Ticket(0, 1, 3), chunk_scores({1: 1.0}))
    queue.open(0, 3, 3)
    queue.open(0, 4, 9)
    assert queue.stats() == QueueStats(1, 1, 1, 1, 3, accepted=1)
    assert queue.claim(0, 0.0) == Ticket(0, 2, 3)
    assert queue.claim(0, 0.0) is None


def test_close_forgets_the_window_and_all_below_and_they_stay_closed(
    queue: SelectionQueue,
) -> None:
    for window in range(4):
        queue.open(window, window, 2)
    assert queue.claim(0, 0.0) == Ticket(0, 0, 0)
    queue.close(2)
    assert queue.stats() == QueueStats(1, 2, 0, 0, 3)
    for window in range(3):
        queue.open(window, window, 2)
        assert queue.pop(window, 1, 0.0) is None
    queue.close(0)
    queue.open(1, 1, 1)
    assert queue.reap(0) == 0
    assert [queue.claim(0, 0.0) for _ in range(3)] == [Ticket(3, 0, 3), Ticket(3, 1, 3), None]


def test_reap_takes_back_the_tickets_of_one_worker(queue: SelectionQueue) -> None:
    queue.open(0, 0, 4)
    for worker in (1, 2, 11, 1):
        assert queue.claim(worker, 0.0) is not None
    assert queue.reap() == 0
    assert queue.reap(1) == 2
    assert queue.reap(1) == 0
    assert queue.stats() == QueueStats(1, 2, 2, 0, 0, reclaimed=2)
    assert [queue.claim(5, 0.0) for _ in range(3)] == [Ticket(0, 0, 0), Ticket(0, 3, 0), None]
    assert queue.reap(11) == 1


def test_reap_takes_back_expired_leases_and_the_old_owner_may_still_push(backend: Backend) -> None:
    queue = backend.new(lease_s=0.01)
    queue.open(0, 0, 2)
    ticket = queue.claim(1, 0.0)
    assert ticket == Ticket(0, 0, 0)
    backend.age(0.01)
    until(lambda: queue.reap() == 1, "the lease expires", timeout_s=5.0)
    assert queue.stats().leased == 0
    assert queue.push(ticket, chunk_scores({1: 1.0}))
    assert queue.claim(2, 0.0) == Ticket(0, 1, 0)


def test_the_push_of_another_worker_ends_the_lease(queue: SelectionQueue) -> None:
    queue.open(0, 0, 1)
    queue.claim(1, 0.0)
    queue.reap(1)
    ticket = queue.claim(2, 0.0)
    assert ticket is not None and queue.push(ticket, chunk_scores({1: 1.0}))
    assert queue.stats().leased == queue.reap(2) == 0


def test_features_come_back_with_their_points(queue: SelectionQueue) -> None:
    fill(
        queue,
        0,
        0,
        [
            chunk_scores({1: 1.0, 2: 3.0}, features=[[0.1, 1e-45, 3e38], [4, 5, 6]]),
            chunk_scores({3: 2.0}, features=[[7, 8, 9]]),
        ],
    )
    popped = queue.pop(0, 3, 0.0)
    assert popped is not None and popped.features is not None
    assert popped.features.dtype == np.float32
    want = np.array([[4, 5, 6], [7, 8, 9], [0.1, 1e-45, 3e38]], np.float32)
    assert popped.features.tobytes() == want.tobytes()


def test_a_chunk_far_beyond_the_stack_of_lua(queue: SelectionQueue) -> None:
    n = 12_345
    points = {position: float(position * 7919 % n) for position in range(n)}
    rows = [[float(position), -float(position)] for position in range(n)]
    fill(queue, 0, 0, [chunk_scores(points, rejected=range(n, n + 9000), features=rows)])
    popped = queue.pop(0, n, 0.0)
    assert popped is not None and popped.positions.tolist() == expected_order(points)
    assert popped.features is not None and popped.features[:, 0].tolist() == expected_order(points)
    assert queue.rejected(0) == list(range(n, n + 9000))


def test_memory_stays_bounded_over_many_windows(backend: Backend) -> None:
    queue = backend.new()
    lag, chunks, chunk = 2, 3, 4
    for window in range(200):
        queue.open(window, max(0, window - lag), chunks)
        while (ticket := queue.claim(0, 0.0)) is not None:
            start = (ticket.window * chunks + ticket.chunk) * chunk
            queue.push(ticket, chunk_scores(dict.fromkeys(range(start, start + chunk), 1.0)))
        assert queue.pop(window, 1, 0.0) is not None
        stats = queue.stats()
        assert stats.windows <= lag + 1 and stats.points <= (lag + 1) * chunks * chunk
        if window >= lag:
            queue.close(window - lag)
    assert queue.stats().accepted == 200 * chunks


def test_destroy_leaves_nothing_and_the_queue_can_start_anew(queue: SelectionQueue) -> None:
    fill(queue, 5, 5, [chunk_scores({1: 1.0}, rejected=[2], features=[[1.0]])])
    queue.open(6, 6, 2)
    queue.claim(0, 0.0)
    queue.close(5)
    queue.destroy()
    assert queue.stats() == QueueStats(0, 0, 0, 0, None)
    queue.open(0, 0, 1)
    assert queue.claim(0, 0.0) == Ticket(0, 0, 0)


def test_peek_shows_the_lowest_open_window_as_far_as_it_is_scored(queue: SelectionQueue) -> None:
    assert queue.peek(3) is None
    queue.open(5, 4, 2)
    queue.open(4, 3, 2)
    empty = queue.peek(3)
    assert empty is not None and (empty.window, empty.version, len(empty.positions)) == (4, 3, 0)
    queue.push(Ticket(4, 1, 3), chunk_scores({7: 0.25, 9: 0.5, 8: 0.5}, features=[[1], [2], [3]]))
    for _ in range(2):  # a read
        best = queue.peek(2)
        assert best is not None and (best.window, best.version) == (4, 3)
        assert best.positions.tolist() == [8, 9] and best.scores.tolist() == [0.5, 0.5]
    queue.close(4)
    later = queue.peek(1)
    assert later is not None and later.window == 5
