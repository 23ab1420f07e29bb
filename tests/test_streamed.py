"""The streamed plan: a plan like any other, whose neighbours lie in few shards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhoselect.errors import ConfigError
from rhoselect.plan import Plan, StreamedPlan

sizes = {
    "seed": st.integers(0, 2**63 - 1),
    "n": st.integers(1, 400),
    "block": st.integers(1, 100),
    "group": st.integers(1, 9),
}


def epoch_of(plan: StreamedPlan, epoch: int) -> np.ndarray:
    """All indices of an epoch in plan order, those of the dropped tail too."""
    start = epoch * plan.n
    return plan.indices(np.arange(start, start + plan.n, dtype=np.uint64))


@settings(deadline=None, max_examples=300)
@given(**sizes, epoch=st.integers(0, 5))
def test_an_epoch_is_a_permutation_whose_groups_hold_few_blocks(
    seed: int, n: int, block: int, group: int, epoch: int
) -> None:
    plan = StreamedPlan(seed, n, 1, 1, block, group)
    order = epoch_of(plan, epoch)
    assert np.array_equal(np.sort(order), np.arange(n))
    left, groups = order // block, 0
    while len(left):
        # As many blocks as come before a new one begins are whole: a group ends there.
        blocks = list(dict.fromkeys(left.tolist()))
        count = next(
            c
            for c in range(1, len(blocks) + 1)
            if set(left[: rows_of(blocks[:c], n, block)].tolist()) == set(blocks[:c])
        )
        assert count <= group
        left = left[rows_of(blocks[:count], n, block) :]
        groups += 1
    assert groups >= -(-plan.slots // group)


def rows_of(blocks: list[int], n: int, block: int) -> int:
    return sum(min(block, n - b * block) for b in blocks)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    n=st.integers(1, 2**55),
    block=st.integers(1, 2**40),
    group=st.integers(1, 64),
    data=st.data(),
)
def test_it_needs_no_table(seed: int, n: int, block: int, group: int, data: st.DataObject) -> None:
    """Far beyond memory, point by point or together, and always below n."""
    plan = StreamedPlan(seed, n, 1, 1, block, group)
    ranks = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8, unique=True))
    positions = np.array([n * 3 + rank for rank in ranks], np.uint64)
    together = plan.indices(positions)
    assert len(np.unique(together)) == len(ranks)
    assert 0 <= together.min() <= together.max() < n
    apart = [plan.indices(positions[place : place + 1])[0] for place in range(len(ranks))]
    assert together.tolist() == apart


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    chunk=st.integers(1, 8),
    chunks=st.integers(1, 6),
    extra=st.integers(0, 200),
    block=st.integers(1, 60),
    group=st.integers(1, 5),
)
def test_windows_of_an_epoch_are_disjoint(
    seed: int, chunk: int, chunks: int, extra: int, block: int, group: int
) -> None:
    n_B = chunk * chunks
    plan = StreamedPlan(seed, n_B + extra, n_B, chunk, block, group)
    per_epoch = plan.n // n_B
    for epoch in (0, 3):
        windows = [plan.window(w) for w in range(epoch * per_epoch, (epoch + 1) * per_epoch)]
        seen = np.concatenate([plan.indices(window) for window in windows])
        assert len(np.unique(seen)) == per_epoch * n_B
        assert seen.dtype == np.int64
        parts = [plan.chunk_positions(epoch * per_epoch, c) for c in range(plan.chunks)]
        assert np.array_equal(np.concatenate(parts), windows[0])


@settings(deadline=None, max_examples=50)
@given(**sizes, n_B=st.integers(1, 64))
def test_a_window_reads_from_the_groups_that_room_is_made_for(
    seed: int, n: int, block: int, group: int, n_B: int
) -> None:
    plan = StreamedPlan(seed, max(n, n_B), n_B, n_B, block, group)
    most = group * (1 + -(-n_B // max(1, plan.group_rows - block + 1)))
    for window in range(plan.n // n_B):
        positions = plan.window(window)
        assert len(np.unique(plan.indices(positions) // block)) <= most
        later = plan.ahead(positions) - positions
        assert (later == max(plan.group_rows, n_B)).all(), "a group later, in the order of the run"


def test_every_point_leads_and_is_left_out_about_as_often() -> None:
    """Over epochs, the first window and the dropped tail are drawn from all points alike."""
    plan = StreamedPlan(seed=1, n=100, n_B=30, chunk=30, block=16, group=2)
    epochs = 1000
    orders = np.stack([epoch_of(plan, epoch) for epoch in range(epochs)])
    for ranks in (slice(0, 30), slice(90, 100)):
        counts = np.bincount(orders[:, ranks].ravel(), minlength=100)
        expected = epochs * (ranks.stop - ranks.start) / 100
        # Points of a block are drawn together, so counts spread as those of blocks do.
        assert abs(counts - expected).max() < 6 * np.sqrt(16 * expected)


def test_points_of_different_blocks_meet() -> None:
    """Each pair of blocks shares a window in some epoch, about as often as any other pair."""
    plan = StreamedPlan(seed=2, n=80, n_B=20, chunk=20, block=10, group=2)
    met = np.zeros((8, 8))
    for window in range(4 * 700):
        blocks = np.unique(plan.indices(plan.window(window)) // 10)
        met[np.ix_(blocks, blocks)] += 1
    pairs = met[~np.eye(8, dtype=bool)]
    expected = 700 * 8 / 56
    assert abs(pairs - expected).max() < 6 * np.sqrt(expected)


def test_seeds_and_epochs_differ_and_repeat() -> None:
    plans = [StreamedPlan(seed, 500, 10, 10, 20, 4) for seed in range(4)]
    orders = {tuple(epoch_of(plan, epoch)) for plan in plans for epoch in range(4)}
    assert len(orders) == 16
    again = StreamedPlan(0, 500, 10, 10, 20, 4)
    assert np.array_equal(epoch_of(again, 2), epoch_of(plans[0], 2))


def test_one_group_of_all_is_as_uniform_as_the_shuffled_plan() -> None:
    """With all blocks in one group, neighbours are as far apart on disk as in the plain plan."""
    n = 2000
    shuffled, whole = Plan(0, n, 10, 10), StreamedPlan(0, n, 10, 10, 50, 1000)
    steps = [
        np.abs(np.diff(plan.indices(np.arange(n, dtype=np.uint64)))).mean()
        for plan in (shuffled, whole)
    ]
    assert steps[1] == pytest.approx(n / 3, rel=0.05)
    assert steps[0] == pytest.approx(n / 3, rel=0.05)


def test_a_window_cannot_exceed_the_data() -> None:
    with pytest.raises(ConfigError, match=r"selection\.n_B: got 11, allowed at most the 10 points"):
        StreamedPlan(seed=0, n=10, n_B=11, chunk=1, block=4, group=2)
