"""Who is given which ticket: fair shares, and nobody idles while weights are there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from queue_helpers import Backend

from rhoselect.cli.commands import MOST_WORKERS
from rhoselect.queue import SelectionQueue
from rhoselect.queue.base import HELPERS
from rhoselect.types import Ticket


@pytest.fixture
def queue(backend: Backend) -> SelectionQueue:
    return backend.new()


def claimed(
    queue: SelectionQueue, worker: int, lanes: int, loaded: int | None
) -> list[tuple[int, int]]:
    """(window, chunk) of all that ``worker`` can get."""
    found = []
    while (ticket := queue.claim(worker, 0.0, lanes, loaded)) is not None:
        found.append((ticket.window, ticket.chunk))
    return found


def test_ahead_of_its_weights_a_worker_is_given_its_own_share_only(queue: SelectionQueue) -> None:
    queue.open(4, 4, 5)
    queue.open(5, 5, 3)
    assert claimed(queue, 1, 2, 3) == [(4, 1), (4, 3), (5, 1)]
    assert claimed(queue, 0, 2, 3) == [(4, 0), (4, 2), (4, 4), (5, 0), (5, 2)]


def test_with_the_weights_a_worker_helps_the_others_before_it_goes_on(
    queue: SelectionQueue,
) -> None:
    queue.open(4, 4, 5)
    queue.open(5, 5, 4)
    assert claimed(queue, 1, 3, 4) == [(4, 1), (4, 4), (4, 0), (4, 2), (4, 3), (5, 1)]


def test_a_worker_beyond_the_lanes_helps_only(queue: SelectionQueue) -> None:
    queue.open(0, 3, 3)
    assert claimed(queue, 2, 2, 2) == claimed(queue, 3, 2, 2) == []
    assert claimed(queue, 3, 2, 3) == [(0, 0), (0, 1), (0, 2)]


def test_a_helper_has_a_lane_that_another_worker_has_too(queue: SelectionQueue) -> None:
    queue.open(4, 4, 5)
    assert claimed(queue, 3 * HELPERS + 1, 2, 3) == [(4, 1), (4, 3)]
    assert queue.reap(1) == 0, "another holds them"
    assert queue.reap(3 * HELPERS + 1) == 2
    assert claimed(queue, 1, 2, 3) == [(4, 1), (4, 3)]


@settings(max_examples=60, deadline=None)
@given(
    stages=st.dictionaries(
        st.tuples(st.integers(0, 12), st.booleans()),
        st.tuples(st.integers(0, 3), st.integers(1, 7)),
        max_size=5,
    ),
    claims=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 4), st.one_of(st.none(), st.integers(-1, 3))),
        max_size=25,
    ),
)
def test_every_claim_is_the_first_of_those_that_the_worker_may_have(
    backend: Backend,
    stages: dict[tuple[int, bool], tuple[int, int]],
    claims: list[tuple[int, int, int | None]],
) -> None:
    queue = backend.new()
    waiting = []
    for (window, candidates), (version, chunks) in stages.items():
        if candidates:
            queue.open(window, version, chunks)
        else:
            queue.open_shortlist(window, version, np.arange(2 * chunks, dtype=np.uint64), 2)
        waiting += [(window, candidates, chunk, version) for chunk in range(chunks)]
    for worker, lanes, loaded in claims:
        may = [
            (window, candidates, not lanes or chunk % lanes != worker, chunk, version)
            for window, candidates, chunk, version in waiting
            if (lanes and chunk % lanes == worker) or loaded is None or version <= loaded
        ]
        ticket = queue.claim(worker, 0.0, lanes, loaded)
        if not may:
            assert ticket is None
            continue
        window, candidates, _, chunk, version = min(may)
        assert ticket == Ticket(window, chunk, version)
        assert (ticket.positions is None) == candidates
        waiting.remove((window, candidates, chunk, version))
    assert queue.stats().waiting == len(waiting)
    queue.destroy()


@pytest.mark.parametrize("how", ["open", "open_shortlist", "reap"])
@pytest.mark.parametrize(
    ("workers", "loaded"),
    [((1, 0), 0), ((0, 2), 1), ((9, 7), None)],
    ids=["for their own chunks", "one without a chunk", "without lanes"],
)
def test_everyone_who_may_have_a_ticket_is_woken(
    queue: SelectionQueue, workers: tuple[int, int], loaded: int | None, how: str
) -> None:
    if how == "reap":
        queue.open(0, 1, 2)
        assert claimed(queue, 5, 1, None) == [(0, 0), (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(queue.claim, worker, 30.0, 3, loaded) for worker in workers]
        match how:
            case "open":
                queue.open(0, 1, 2)
            case "open_shortlist":
                queue.open_shortlist(0, 1, np.arange(3, dtype=np.uint64), 2)
            case _:
                assert queue.reap(5) == 2
        tickets = [wait.result(30.0) for wait in waits]
    assert sorted(ticket.chunk for ticket in tickets if ticket is not None) == [0, 1]


def test_no_worker_of_a_run_has_a_slot_of_a_helper() -> None:
    assert MOST_WORKERS == HELPERS, "slots begin at 0"
