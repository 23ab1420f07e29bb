"""Audits: their figures against a plain reckoning, and that they change nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhoselect import config as configuration
from rhoselect.inputs import open_inputs
from rhoselect.metrics import Metrics
from rhoselect.queue.memory import MemoryQueue
from rhoselect.selector.audit import Audit, Auditor, spearman
from rhoselect.snapshots.local import LocalStore
from rhoselect.trainer.build import build_trainer, run_trainer
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.types import Positions, Scores
from support import made


def rank(values: list[float], one: float) -> float:
    below, equal = sum(v < one for v in values), sum(v == one for v in values)
    return below + (equal + 1) / 2


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=30))
def test_rank_agreement_is_the_correlation_of_ranks(pairs: list[tuple[int, int]]) -> None:
    a, b = (list(map(float, side)) for side in zip(*pairs, strict=True))
    ranks_a, ranks_b = [rank(a, v) for v in a], [rank(b, v) for v in b]
    mean = (len(pairs) + 1) / 2
    cross = sum((x - mean) * (y - mean) for x, y in zip(ranks_a, ranks_b, strict=True))
    squares = [sum((x - mean) ** 2 for x in ranks) for ranks in (ranks_a, ranks_b)]
    expected = cross / (squares[0] * squares[1]) ** 0.5 if all(squares) else 0.0
    assert spearman(np.array(a), np.array(b)) == pytest.approx(expected, abs=1e-12)


class Scripted:
    """Scores by version, in place of a model: 'fresh' and those of old versions."""

    def __init__(self, fresh: Scores, stale: dict[int, Scores]) -> None:
        self._fresh, self._stale = fresh, stale

    def fresh(self, positions: Positions, state: object) -> tuple[Scores, None]:
        return self._fresh, None

    def stale(self, positions: Positions, version: int) -> Scores:
        return self._stale[version]


def audit(tiny_config: Path, sets: list[str], fresh: Scores, stale: Scores) -> Audit:
    inputs = open_inputs(configuration.load(tiny_config, ["selection.temperature=0", *sets]))
    scripted = Scripted(fresh, {4: stale})
    auditor = Auditor(inputs, scripted, Metrics())  # type: ignore[arg-type]
    return auditor.audit(5, 4, {})


def test_what_a_stale_choice_is_worth(tiny_config: Path) -> None:
    """64 candidates, of which 8 are picked; scores are 63, 62, …, 0 in fresh order."""
    fresh = np.arange(63.0, -1.0, -1.0)
    same = audit(tiny_config, ["selection.lag=1", "selection.shortlist=1"], fresh, fresh)
    assert (same.rank_agreement, same.overlap, same.captured) == (1, 1, 1)
    turned = audit(tiny_config, ["selection.lag=1", "selection.shortlist=1"], fresh, -fresh)
    assert turned.rank_agreement == pytest.approx(-1)
    assert (turned.overlap, turned.captured) == (0, -1)
    # Half of the best are taken for the worst: picked are ranks 0-3 and 8-11.
    half = fresh.copy()
    half[4:8] = -1
    found = audit(tiny_config, ["selection.lag=1", "selection.shortlist=1"], fresh, half)
    assert found.overlap == 0.5
    assert found.captured == pytest.approx((61.5 + 53.5) / 2 / 28 - 31.5 / 28)
    # With a second stage over the 16 stale best they are ranks 0-3 and 8-11 still.
    again = audit(tiny_config, ["selection.lag=1", "selection.shortlist=2"], fresh, half)
    assert again.captured == pytest.approx(found.captured)
    # A shortlist of everything finds everything.
    whole = audit(tiny_config, ["selection.lag=1", "selection.shortlist=8"], fresh, half)
    assert (whole.overlap, whole.captured) == (1, 1)


def test_a_score_that_is_no_number_is_the_lowest(tiny_config: Path) -> None:
    fresh = np.arange(63.0, -1.0, -1.0)
    stale = fresh.copy()
    stale[0] = np.nan
    found = audit(tiny_config, ["selection.lag=1", "selection.shortlist=1"], fresh, stale)
    assert found.overlap == 7 / 8


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_a_run_with_audits_selects_what_a_run_without_does(
    tiny_config: Path, tmp_path: Path, lag: int
) -> None:
    found = []
    for name, every in (("without", 0), ("with", 3)):
        sets = [f"selection.lag={lag}", f"selection.audit_every={every}"]
        flags = [word for item in sets for word in ("--set", item)]
        made("train", tiny_config, "--run-dir", tmp_path / name, *flags)
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        found.append((summary["selected_sha256"], summary["weights_sha256"]))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "sets",
    [
        pytest.param(["selection.shortlist=2", "selection.audit_every=3"], id="two-stages"),
        pytest.param(["scorer.precision=bf16"], id="bf16"),
    ],
)
def test_weights_that_are_lent_select_what_copies_do(
    tiny_config: Path, tmp_path: Path, sets: list[str]
) -> None:
    inputs, found = open_inputs(configuration.load(tiny_config, sets)), []
    for lends in (False, True):
        folder = RunFolder.create(tmp_path / f"run-{lends}", inputs.config)
        queue, store = MemoryQueue(60), LocalStore(lends)
        trainer = build_trainer(inputs, folder, queue, store, Metrics(), workers=0)
        summary = run_trainer(inputs, folder, trainer, workers=0)
        found.append((summary["selected_sha256"], summary["weights_sha256"]))
    assert found[0] == found[1]


def test_audits_are_exported(tiny_config: Path, tmp_path: Path) -> None:
    sets = ["selection.lag=1", "selection.audit_every=5"]
    inputs = open_inputs(configuration.load(tiny_config, sets))
    folder, metrics = RunFolder.create(tmp_path / "run", inputs.config), Metrics()
    trainer = build_trainer(inputs, folder, MemoryQueue(60), LocalStore(), metrics, workers=0)
    run_trainer(inputs, folder, trainer, workers=0)
    for gauge in metrics.audits.values():
        [sample] = next(iter(gauge.collect())).samples
        assert sample.labels == {"lag": "1"}
        assert 0 < sample.value <= 1
