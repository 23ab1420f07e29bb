"""Any sequence of calls has the same results in memory and on a server."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from queue_helpers import Backend, chunk_scores

from rhoselect.queue import SelectionQueue
from rhoselect.types import Ticket, TopK

windows = st.integers(0, 4)
shortlist = np.array([70, 71, 72, 73, 74], np.uint64)
tickets = st.builds(
    Ticket, windows, st.integers(0, 2), st.integers(0, 1), st.sampled_from([None, shortlist])
)
score_lists = st.lists(st.sampled_from([-1.5, 0.0, 0.1, 2.0]), max_size=3)
calls = st.one_of(
    st.tuples(st.just("open"), windows, st.integers(0, 1), st.just(3)),
    st.tuples(
        st.just("open_shortlist"), windows, st.integers(0, 1), st.just(shortlist), st.integers(2, 3)
    ),
    st.tuples(
        st.just("claim"),
        st.integers(0, 2),
        st.just(0.0),
        st.integers(1, 3),
        st.sampled_from([None, 0, 1]),
    ),
    st.tuples(st.just("push"), tickets, score_lists, st.integers(0, 2)),
    st.tuples(st.just("pop"), windows, st.integers(0, 5), st.just(0.0), st.booleans()),
    st.tuples(st.just("rejected"), windows),
    st.tuples(st.just("close"), windows),
    st.tuples(st.just("reap"), st.one_of(st.none(), st.integers(0, 2))),
)


def run(queue: SelectionQueue, call: tuple[Any, ...]) -> object:
    """The call's result in a form that can be compared."""
    name, *args = call
    if name == "push":
        ticket, scores, bad = args
        start = (ticket.window * 3 + ticket.chunk) * 5
        args = [ticket, chunk_scores({start + i: s for i, s in enumerate(scores)}, [4][:bad])]
    result = getattr(queue, name)(*args)
    if isinstance(result, TopK):
        return result.window, result.version, result.positions.tolist(), result.scores.tolist()
    if isinstance(result, Ticket):
        return result, None if result.positions is None else result.positions.tolist()
    return result


def fill_up(queue: SelectionQueue) -> list[object]:
    """Do all the work that waits, and look at every window."""
    trace: list[object] = []
    while (ticket := queue.claim(3, 0.0)) is not None:
        trace.append((ticket, run(queue, ("push", ticket, [0.5, 0.5], 1))))
    looks = [("pop", window, 9, 0.0, again) for window in range(5) for again in (False, True)]
    return [*trace, *(run(queue, look) for look in looks), queue.stats()]


@settings(max_examples=120, deadline=None)
@given(st.lists(calls, max_size=30))
@example(  # a chunk that the shortlist does not have
    [("open_shortlist", 0, 0, shortlist, 3), ("push", Ticket(0, 2, 0, shortlist), [], 0)]
)
def test_backends_agree(embedded_url: str, sequence: list[tuple[Any, ...]]) -> None:
    backends = Backend(), Backend(embedded_url)
    memory, served = (backend.new() for backend in backends)
    for call in sequence:
        assert run(memory, call) == run(served, call), call
        assert memory.stats() == served.stats(), call
    assert fill_up(memory) == fill_up(served)
    backends[1].clear()
