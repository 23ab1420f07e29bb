"""A window's second stage: a shortlist of its candidates, scored once more with newer weights."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from queue_helpers import Backend, chunk_scores, fill

from rhoselect.queue import SelectionQueue
from rhoselect.types import Positions, QueueStats, Ticket

SHORTLIST: Positions = np.array([30, 2, 2**64 - 1, 7, 11], np.uint64)
SLICES = [[30, 2], [2**64 - 1, 7], [11]]


@pytest.fixture
def queue(backend: Backend) -> SelectionQueue:
    return backend.new()


def claim_all(queue: SelectionQueue) -> list[Ticket]:
    found = []
    while (ticket := queue.claim(0, 0.0)) is not None:
        found.append(ticket)
    return found


def positions_of(tickets: list[Ticket]) -> list[list[int] | None]:
    return [None if t.positions is None else t.positions.tolist() for t in tickets]


def test_both_stages_live_side_by_side(queue: SelectionQueue) -> None:
    fill(queue, 3, 1, [chunk_scores({30: 3.0, 2: 2.0}), chunk_scores({7: 1.0})])
    queue.open_shortlist(3, 4, SHORTLIST, 2)
    tickets = claim_all(queue)
    assert tickets == [Ticket(3, chunk, 4) for chunk in range(3)]
    assert positions_of(tickets) == SLICES
    assert tickets[0].positions is not None and tickets[0].positions.dtype == np.uint64
    assert queue.pop(3, 9, 0.0, shortlist=True) is None
    for ticket, scores in zip(tickets, ({30: -1.0, 2: 5.0}, {7: 5.0}, {11: 9.0}), strict=True):
        assert queue.push(ticket, chunk_scores(scores, rejected=[100 + ticket.chunk]))
        assert not queue.push(ticket, chunk_scores(scores))
    best = queue.pop(3, 3, 0.0, shortlist=True)
    assert best is not None and (best.window, best.version) == (3, 4)
    assert best.positions.tolist() == [11, 2, 7] and best.scores.tolist() == [9.0, 5.0, 5.0]
    candidates = queue.pop(3, 2, 0.0)
    assert candidates is not None and candidates.version == 1
    assert candidates.positions.tolist() == [30, 2]
    assert queue.rejected(3) == [100, 101, 102]
    assert queue.stats() == QueueStats(1, 0, 0, 7, 1, accepted=5, repeated=3, rejected=3)
    queue.close(3)
    assert queue.stats() == QueueStats(0, 0, 0, 0, None, accepted=5, repeated=3, rejected=3)
    assert queue.pop(3, 1, 0.0, shortlist=True) is queue.pop(3, 1, 0.0) is None


def test_it_needs_no_candidates_stage(queue: SelectionQueue) -> None:
    queue.open_shortlist(0, 0, SHORTLIST, 5)
    (ticket,) = claim_all(queue)
    assert queue.push(ticket, chunk_scores({2: 1.0}))
    assert queue.pop(0, 1, 0.0) is None
    assert queue.pop(0, 1, 0.0, shortlist=True) is not None


def test_it_comes_before_the_candidates_of_its_window_and_of_later_ones(
    queue: SelectionQueue,
) -> None:
    queue.open(1, 0, 1)
    queue.open(2, 1, 1)
    queue.open_shortlist(1, 1, SHORTLIST, 3)
    tickets = claim_all(queue)
    assert positions_of(tickets) == [[30, 2, 2**64 - 1], [7, 11], None, None]
    assert tickets == [Ticket(1, 0, 1), Ticket(1, 1, 1), Ticket(1, 0, 0), Ticket(2, 0, 1)]


def test_opening_it_again_changes_nothing_and_closed_stays_closed(queue: SelectionQueue) -> None:
    queue.open_shortlist(0, 5, SHORTLIST, 2)
    assert queue.claim(0, 0.0) == Ticket(0, 0, 5)
    queue.open_shortlist(0, 5, SHORTLIST, 2)
    queue.open_shortlist(0, 6, SHORTLIST[::-1], 1)
    assert queue.stats() == QueueStats(1, 2, 1, 0, 5)
    assert positions_of(claim_all(queue)) == SLICES[1:]
    queue.close(0)
    queue.open_shortlist(0, 5, SHORTLIST, 2)
    assert claim_all(queue) == []


def test_close_forgets_the_shortlists_of_all_windows_below(queue: SelectionQueue) -> None:
    for window in range(3):
        queue.open_shortlist(window, window, SHORTLIST, 3)
        assert queue.push(Ticket(window, 0, window, SHORTLIST), chunk_scores({30: 1.0}))
    assert queue.claim(9, 0.0) == Ticket(0, 1, 0)
    queue.close(1)
    assert queue.reap(9) == 0
    assert queue.stats() == QueueStats(1, 1, 0, 1, 2, accepted=3)
    assert positions_of(claim_all(queue)) == [[7, 11]]


def test_tickets_that_are_taken_back_keep_their_positions(queue: SelectionQueue) -> None:
    queue.open_shortlist(0, 0, SHORTLIST, 2)
    queue.open(0, 0, 3)
    assert positions_of([t for _ in range(3) if (t := queue.claim(1, 0.0))]) == SLICES
    assert len(claim_all(queue)) == 3
    assert queue.reap(1) == 3
    assert positions_of(claim_all(queue)) == SLICES


def test_a_push_of_one_stage_leaves_the_other_alone(queue: SelectionQueue) -> None:
    queue.open_shortlist(0, 7, SHORTLIST, 5)
    queue.open(0, 7, 1)
    shortlist, candidates = claim_all(queue)
    assert shortlist == candidates  # they differ by their positions alone
    assert queue.push(candidates, chunk_scores({1: 1.0}))
    assert queue.stats().leased == 1
    assert queue.pop(0, 1, 0.0, shortlist=True) is None
    assert queue.push(shortlist, chunk_scores({2: 1.0}))
    assert queue.stats().leased == 0


def test_a_late_or_foreign_push_is_ignored(queue: SelectionQueue) -> None:
    queue.open(0, 1, 1)
    ticket = Ticket(0, 0, 1, SHORTLIST)
    assert not queue.push(ticket, chunk_scores({1: 1.0}))
    queue.open_shortlist(0, 2, SHORTLIST, 5)
    assert not queue.push(ticket, chunk_scores({1: 1.0}))
    assert queue.stats().late == 2


def test_pop_waits_for_the_last_chunk_of_its_stage(queue: SelectionQueue) -> None:
    queue.open_shortlist(0, 0, SHORTLIST, 3)
    queue.open(0, 0, 1)
    tickets = claim_all(queue)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(queue.pop, 0, 2, 30.0, True)
        for ticket in reversed(tickets):
            assert queue.push(ticket, chunk_scores({ticket.chunk: float(ticket.chunk)}))
        popped = wait.result(30.0)
    assert popped is not None and popped.positions.tolist() == [1, 0]
