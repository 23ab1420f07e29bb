"""The plan: a bijection per epoch, windows without replacement, uniform enough."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhoselect.errors import ConfigError
from rhoselect.hashing import key64, mix64, permute
from rhoselect.plan import Plan


def image(n: int, seed: int, epoch: int = 0) -> np.ndarray:
    return permute(np.arange(n, dtype=np.uint64), n, key64(seed, epoch))


@settings(deadline=None, max_examples=200)
@given(n=st.integers(1, 5000), seed=st.integers(0, 2**63 - 1))
def test_permute_is_a_bijection(n: int, seed: int) -> None:
    assert np.array_equal(np.sort(image(n, seed)), np.arange(n))


def test_permute_is_a_bijection_for_every_small_n() -> None:
    for n in range(1, 300):
        assert np.array_equal(np.sort(image(n, 7)), np.arange(n))


@settings(deadline=None)
@given(
    n=st.integers(1, 2**62),
    seed=st.integers(0, 2**63 - 1),
    draw=st.integers(0, 2**62),
    data=st.data(),
)
def test_permute_needs_no_table(n: int, seed: int, draw: int, data: st.DataObject) -> None:
    """Far beyond memory, point by point or together, and always below n."""
    ranks = np.array([draw % n, data.draw(st.integers(0, n - 1)), n - 1, 0], np.uint64)
    together = permute(ranks, n, key64(seed, 0))
    assert (together < n).all()
    assert len(np.unique(together)) == len(np.unique(ranks))
    for rank, expected in zip(ranks, together, strict=True):
        assert permute(np.array([rank]), n, key64(seed, 0))[0] == expected


@given(parts=st.lists(st.integers(0, 2**64 - 1), max_size=4))
def test_a_key_is_what_the_mixing_of_arrays_gives(parts: list[int]) -> None:
    expected = np.zeros(1, np.uint64)
    for part in parts:
        expected = mix64(expected ^ np.array([part], np.uint64))
    assert key64(*parts) == expected[0]


def test_keys_and_permutations_are_those_of_every_run_so_far() -> None:
    assert int(key64(1, 2, 3)) == 15020427595393229491
    image = permute(np.arange(10, dtype=np.uint64), 1000, key64(5))
    assert image.tolist() == [774, 314, 800, 528, 215, 98, 725, 938, 94, 339]


def test_permute_does_not_touch_its_argument() -> None:
    ranks = np.arange(100, dtype=np.uint64)
    permute(ranks, 100, key64(1))
    assert np.array_equal(ranks, np.arange(100))


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    chunk=st.integers(1, 8),
    chunks=st.integers(1, 6),
    extra=st.integers(0, 200),
    epoch=st.integers(0, 5),
)
def test_windows_of_an_epoch_are_disjoint_and_chunks_make_windows(
    seed: int, chunk: int, chunks: int, extra: int, epoch: int
) -> None:
    n_B = chunk * chunks
    plan = Plan(seed, n_B + extra, n_B, chunk)
    per_epoch = plan.n // n_B
    windows = range(epoch * per_epoch, (epoch + 1) * per_epoch)
    indices = [plan.indices(plan.window(w)) for w in windows]
    assert all(len(window) == n_B for window in indices)
    seen = np.concatenate(indices)
    assert len(np.unique(seen)) == per_epoch * n_B
    assert seen.min() >= 0
    assert seen.max() < plan.n
    assert seen.dtype == np.int64
    for w, window in zip(windows, indices, strict=True):
        parts = [plan.chunk_positions(w, c) for c in range(plan.chunks)]
        assert np.array_equal(np.concatenate(parts), plan.window(w))
        assert np.array_equal(np.concatenate([plan.indices(part) for part in parts]), window)
        parts = [plan.chunk_indices(w, c) for c in range(plan.chunks)]
        assert np.array_equal(np.concatenate(parts), window)
        assert np.array_equal(plan.window_indices(w, plan.window(w)[::-1]), window[::-1])


def test_positions_name_their_epoch_and_may_be_mixed() -> None:
    plan = Plan(seed=3, n=10, n_B=4, chunk=2)
    positions = np.concatenate([plan.window(w) for w in (5, 0, 2)])
    expected = np.concatenate([plan.indices(plan.window(w)) for w in (5, 0, 2)])
    assert np.array_equal(plan.indices(positions), expected)
    assert (plan.window(2) // plan.n == 1).all()
    wide = Plan(seed=3, n=5000, n_B=2048, chunk=128)
    window = wide.indices(wide.window(3))
    parts = [wide.chunk_indices(3, chunk) for chunk in range(wide.chunks)]
    assert np.array_equal(np.concatenate(parts), window)
    assert np.array_equal(wide.window_indices(3, wide.window(3)[::-1]), window[::-1])
    shuffled = np.random.default_rng(0).permutation(len(positions))
    assert np.array_equal(plan.indices(positions[shuffled]), expected[shuffled])


def test_epochs_and_seeds_differ_and_repeat() -> None:
    orders = [image(500, seed, epoch).tolist() for seed in range(5) for epoch in range(5)]
    assert len({tuple(order) for order in orders}) == 25
    assert orders[0] == image(500, 0, 0).tolist()


@pytest.mark.parametrize("n", [10, 97, 1000])
def test_every_rank_goes_everywhere_about_as_often(n: int) -> None:
    """Chi-square over keys of where a rank lands; and neighbours do not stay neighbours."""
    keys = 4000
    ranks = np.array([0, 1, n // 2, n - 1], np.uint64)
    images = np.stack([permute(ranks, n, key64(key, 0)) for key in range(keys)]).astype(np.int64)
    bins = min(n, 20)
    for rank in range(len(ranks)):
        counts = np.bincount(images[:, rank] * bins // n, minlength=bins)
        widths = np.bincount(np.arange(n) * bins // n, minlength=bins)
        expected = keys * widths / n
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert chi_square < bins - 1 + 5 * np.sqrt(2 * (bins - 1))
    correlation = np.corrcoef(images[:, 0], images[:, 1])[0, 1]
    assert abs(correlation + 1 / (n - 1)) < 5 / np.sqrt(keys)


def test_a_window_cannot_exceed_the_data() -> None:
    with pytest.raises(ConfigError, match=r"selection\.n_B: got 11, allowed at most the 10 points"):
        Plan(seed=0, n=10, n_B=11, chunk=1)
