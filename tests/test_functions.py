"""The built-in score functions, the one order of scores, and the noise of the shortlist."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from rhoselect.data.il_table import IlMetadata, IlTable
from rhoselect.hashing import key64, mix64
from rhoselect.plan import Plan
from rhoselect.selection import Scoring, get_function
from rhoselect.selection.coreset import CoreSet, ProxyMetadata
from rhoselect.selection.functions import BUILT_IN
from rhoselect.selection.scoring import gumbel, order
from rhoselect.types import ForwardOutput

INDICES = np.array([12, 10, 11], np.int64)
IL = {10: 0.25, 11: 2.0, 12: 0.5}
LOGITS = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0], [0.0, math.log(7.0)]])
LABELS = torch.tensor([0, 0, 0])
LOSSES = [math.log(2.0), math.log(4 / 3), math.log(8.0)]  # -log softmax at class 0


def table() -> IlTable:
    metadata = IlMetadata("f", "m", "w", "holdout", (0, 10), "fp32", "now", "test", 0.0, 0)
    return IlTable(10, np.array([IL[10], IL[11], IL[12]], np.float32), metadata)


def output() -> ForwardOutput:
    return ForwardOutput(F.cross_entropy(LOGITS, LABELS, reduction="none"), LOGITS, LABELS)


def scores(name: str, forward: ForwardOutput | None) -> npt.NDArray[np.float64]:
    return Scoring(get_function(name), table())(INDICES, forward, {})[0]


def test_reducible_loss_is_the_loss_minus_the_irreducible_loss_of_the_same_point() -> None:
    expected = [LOSSES[0] - 0.5, LOSSES[1] - 0.25, LOSSES[2] - 2.0]
    np.testing.assert_allclose(scores("reducible_loss", output()), expected, rtol=1e-5)


def test_reducible_loss_is_exactly_the_float32_difference() -> None:
    expected = [
        np.float32(loss) - np.float32(IL[index])
        for loss, index in zip(output().losses.numpy(), INDICES.tolist(), strict=True)
    ]
    assert scores("reducible_loss", output()).tolist() == [float(value) for value in expected]


def test_loss_is_the_loss() -> None:
    np.testing.assert_allclose(scores("loss", output()), LOSSES, rtol=1e-5)


def test_irreducible_loss_prefers_easy_points_and_needs_no_forward() -> None:
    assert scores("irreducible_loss", None).tolist() == [-0.5, -0.25, -2.0]
    assert not get_function("irreducible_loss").needs.forward


def test_uniform_takes_the_first_of_a_window_which_the_plan_has_shuffled() -> None:
    """Every point is trained on about as often as any other, over many epochs."""
    assert not get_function("uniform").needs.forward
    assert not get_function("uniform").needs.il
    assert scores("uniform", None).tolist() == [0.0, 0.0, 0.0]
    plan, n_b, windows = Plan(seed=1, n=40, n_B=10, chunk=5), 2, 4000
    picked = []
    for window in range(windows):
        positions = plan.window(window)
        picked.append(plan.indices(positions[order(positions, np.zeros(10))[:n_b]]))
    counts = np.bincount(np.concatenate(picked), minlength=40)
    expected = windows * n_b / 40
    assert np.abs(counts - expected).max() < 5 * math.sqrt(expected)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_built_ins_ask_for_exactly_what_they_use(name: str) -> None:
    """Nothing but what ``needs`` says is given to them."""
    function, needs, given = get_function(name), get_function(name).needs, output()
    given = dataclasses.replace(
        given,
        features=torch.ones(3, 5) if needs.features else None,
        passes=torch.stack([LOGITS] * needs.passes) if needs.passes else None,
        reference_losses=torch.zeros(3) if needs.reference else None,
    )
    metadata = ProxyMetadata("f", 10, "m", "test", 0.0, 0)
    core_set = CoreSet(10, np.array([True, False, True]), metadata) if needs.core_set else None
    scoring = Scoring(function, table() if needs.il else None, core_set)
    state = function.initial_state(2) if needs.forward else {}
    values, features = scoring(INDICES, given if needs.forward else None, state)
    assert values.shape == (3,)
    assert values.dtype == np.float64
    assert (features is not None) == (name in ("divbs", "reducible_loss_quota"))
    together = ("divbs", "gradient_norm_is", "reducible_loss_quota")
    assert function.whole_window == (name in together)
    if function.pointwise:
        assert not needs.forward
        alone = [scoring(INDICES[row : row + 1], None, state)[0] for row in range(3)]
        assert np.concatenate(alone).tolist() == values.tolist()


def test_the_core_set_comes_first() -> None:
    core_set = CoreSet(10, np.array([True, False, True]), ProxyMetadata("f", 10, "m", "t", 0.0, 0))
    assert Scoring(get_function("svp"), None, core_set)(INDICES, None, {})[0].tolist() == [1, 1, 0]


def test_order_breaks_ties_by_position_wherever_the_rows_stand() -> None:
    positions = np.array([7, 3, 9, 1, 5], np.uint64)
    values = np.array([1.0, 2.0, 2.0, -0.0, 0.0])
    assert positions[order(positions, values)].tolist() == [3, 9, 7, 1, 5]


@given(st.lists(st.tuples(st.floats(-2, 2), st.integers(0, 2**64 - 1)), unique_by=lambda x: x[1]))
def test_order_is_score_descending_then_position_ascending(rows: list[tuple[float, int]]) -> None:
    positions = np.array([position for _, position in rows], np.uint64)
    values = np.array([value for value, _ in rows], np.float64)
    best_first = sorted(rows, key=lambda row: (-row[0], row[1]))
    assert positions[order(positions, values)].tolist() == [position for _, position in best_first]


def test_gumbel_is_a_pure_function_of_seed_window_and_index() -> None:
    indices = np.arange(1000, 1200, dtype=np.int64)
    noise = gumbel(3, 17, indices)
    shuffled = np.random.default_rng(0).permutation(200)
    assert np.array_equal(gumbel(3, 17, indices[shuffled]), noise[shuffled])
    assert gumbel(3, 17, indices[50:51])[0] == noise[50]
    assert not np.isclose(gumbel(3, 18, indices), noise).any()
    assert not np.isclose(gumbel(4, 17, indices), noise).any()


def test_gumbel_has_the_standard_gumbel_distribution() -> None:
    n = 200_000
    noise = np.sort(gumbel(0, 5, np.arange(n, dtype=np.int64)))
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.012)
    assert noise.var() == pytest.approx(math.pi**2 / 6, rel=0.02)
    distance = np.abs(np.exp(-np.exp(-noise)) - (np.arange(n) + 0.5) / n).max()
    assert distance < 1.95 / math.sqrt(n)  # Kolmogorov-Smirnov at 0.001


def test_gumbel_noise_of_one_window_says_nothing_of_the_next() -> None:
    indices = np.arange(20_000, dtype=np.int64)
    rows = np.stack([gumbel(0, window, indices) for window in range(4)])
    rows = np.concatenate([rows, np.roll(rows[:1], 1, axis=1)])
    correlation = np.corrcoef(rows) - np.eye(5)
    assert np.abs(correlation).max() < 5 / math.sqrt(20_000)


@pytest.mark.parametrize("end", ["lowest", "highest"])
def test_gumbel_is_finite_at_both_ends_of_its_random_bits(end: str) -> None:
    """The index whose 64 random bits are (nearly) all 0 or all 1, found by going backwards."""
    key = int(key64(1, 0x67756D62656C, 2))
    ends = [2**64 - 1 - low if end == "highest" else low for low in range(256)]
    index, bits = next((i, b) for b in ends if (i := _unmixed(b) ^ key) < 2**63)
    assert int(mix64(np.array([index ^ key], np.uint64))[0]) == bits
    noise = gumbel(1, 2, np.array([index], np.int64))[0]
    assert math.isfinite(noise)
    assert noise > 36 if end == "highest" else noise < -3.5


def test_gumbel_top_1_draws_with_the_probabilities_of_a_softmax() -> None:
    values, temperature, windows = np.array([0.3, 1.0, -0.5, 0.9, 0.0]), 0.7, 20_000
    indices = np.array([4, 40, 400, 4000, 40000], np.int64)
    first = [np.argmax(values + temperature * gumbel(0, w, indices)) for w in range(windows)]
    shares = np.bincount(first, minlength=5) / windows
    expected = np.exp(values / temperature) / np.exp(values / temperature).sum()
    assert np.abs(shares - expected).max() < 4 * math.sqrt(0.25 / windows)


def _unmixed(bits: int) -> int:
    """The inverse of mix64, step by step."""
    mask = 2**64 - 1

    def unshift(value: int, shift: int) -> int:
        result = value
        for _ in range(64 // shift + 1):
            result = value ^ (result >> shift)
        return result

    value = unshift(bits, 31)
    value = unshift(value * pow(0x94D049BB133111EB, -1, 2**64) & mask, 27)
    value = unshift(value * pow(0xBF58476D1CE4E5B9, -1, 2**64) & mask, 30)
    return (value - 0x9E3779B97F4A7C15) & mask
