"""The rules of benchmarks/choices.py, and what it concludes from its runs."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent
Part = Callable[[str], ModuleType]


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Part:
    """A function that imports a module of the benchmarks."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "benchmarks")])
    return importlib.import_module


def window(part: Part, copies: int = 1) -> Any:
    """320 candidates, of which each is there ``copies`` times in a row."""
    random = torch.Generator().manual_seed(0)
    rows = torch.arange(320 // copies).repeat_interleave(copies)
    labels = torch.randint(10, (len(rows),), generator=random)[rows]
    logits, features = (torch.randn(320, d, generator=random)[rows] for d in (10, 16))
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return part("choosing").Window(rows, labels, losses, losses - 1, logits, features)


def test_a_rule_chooses_n_b_different_candidates(part: Part) -> None:
    choosing, candidates = part("choosing"), window(part)
    points = torch.randn(320, 4), candidates.labels
    model = torch.nn.Linear(4, 10)
    il = torch.zeros(320)
    ground = choosing.Ground(points, il, torch.rand(320, 10), points, points, points)
    for name, make in choosing.RULES.items():
        rule = make(model, ground, torch.Generator().manual_seed(0))
        with torch.no_grad():
            first, second = rule(candidates), rule(candidates)
        for chosen in (first, second):
            places, weights = chosen if isinstance(chosen, tuple) else (chosen, None)
            assert len(places.unique()) == len(places) == (64 if "2 n_b" in name else 32), name
            assert weights is None or float(weights.sum()) == pytest.approx(1)


def test_what_diversity_means(part: Part) -> None:
    choosing, copied = part("choosing"), window(part, copies=5)
    assert len(copied.rows[choosing.best(copied)].unique()) == 7
    assert len(copied.rows[choosing.covering(copied)].unique()) >= 15
    labels = torch.arange(320) % 10 * (torch.arange(320) % 2)  # half of them are of class 0
    uneven = choosing.Window(**{**vars(window(part)), "labels": labels})
    assert int(labels[choosing.best(uneven)].bincount().max()) > 6
    assert int(labels[choosing.quota(uneven)].bincount().max()) == 6


def test_a_cold_sample_is_the_top_and_a_hot_one_is_uniform(part: Part) -> None:
    choosing, candidates = part("choosing"), window(part)
    random = torch.Generator().manual_seed(0)
    top = set(choosing.best(candidates).tolist())
    shares = {}
    for temperature in (1e-4, 1e4):
        samples = [choosing.sampled(random, temperature, candidates) for _ in range(200)]
        shares[temperature] = sum(len(top & set(each.tolist())) for each in samples) / 6400
    assert shares[1e-4] == 1
    assert shares[1e4] == pytest.approx(0.1, abs=0.02)


def test_the_published_reducr_favours_the_class_that_is_worst_on_the_holdout(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    choosing, candidates = part("choosing"), window(part)
    monkeypatch.setattr(choosing, "ETA", 1e-2)  # a few steps show it
    labels = torch.arange(10).repeat(32)
    points = torch.nn.functional.one_hot(labels, 10).float(), labels
    model = torch.nn.Linear(10, 10)
    with torch.no_grad():
        model.weight.copy_(5 * torch.eye(10))
        model.bias.zero_()
        model.weight[3, 3] = -5.0  # class 3 is taken for another one
    class_il = candidates.losses[:, None].repeat(1, 10)
    for known in (3, 4):  # its own model alone knows a point
        class_il[candidates.labels == known, known] = 0.0
    ground = choosing.Ground(points, torch.zeros(320), class_il, points, points, points)
    rule = choosing.Published(model, ground)
    with torch.no_grad():
        chosen = [candidates.labels[rule(candidates)] for _ in range(20)]
    first, last = (int((labels == 3).sum()) for labels in (chosen[0], chosen[-1]))
    assert first < last


def test_verdicts_are_those_of_paired_seeds(part: Part, tmp_path: Path) -> None:
    choices = part("choices")
    cells = choices.CELLS[:2]
    runs = choices.Runs(tmp_path, True, [0, 1, 2])
    accuracies = {"top": (0.80, 0.84, 0.82), "covering": (0.81, 0.852, 0.831)}
    for cell in cells:
        for rule, finals in accuracies.items():
            for lr in choices.RATES:
                for seed, final in enumerate(finals):
                    good = lr == choices.RATES[1]
                    found = {"validation": float(good), "accuracy": final if good else 0.1}
                    path = tmp_path / choices.Run(cell, rule, lr, seed).file
                    path.write_text(json.dumps({**found, "worst_class": 0.5}))
    found = choices.figures(runs, cells)
    assert [row["lr"] for row in found["rows"]] == [3e-3] * 4
    first = found["comparisons"][0]
    assert first["accuracy"] == pytest.approx((1.0 + 1.2 + 1.1) / 3)
    assert first["accuracy_error"] == pytest.approx(0.1 / 3**0.5)
    counts = {"cells": 2, "won": 2, "lost": 0, "passes": True}
    assert found["verdicts"] == [{"rule": "covering", "base": "top", **counts}]
    assert not choices.verdicts(found["comparisons"][:1])[0]["passes"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_smallest_benchmark_goes_on_where_it_was_interrupted(
    part: Part, tmp_path: Path
) -> None:
    choices = part("choices")
    runs, cells = choices.Runs(tmp_path, True, [0, 1]), choices.QUICK[:1]
    rules = ["top", "REDUCR"]
    made = [next(iter(runs.finish(cells, rules)))]
    made += runs.finish(cells, rules)
    assert len(made) == len(set(made)) == 6
    before = choices.figures(runs, cells)
    (tmp_path / made[-1].file).unlink()
    assert list(runs.finish(cells, rules)) == made[-1:]
    assert choices.figures(runs, cells) == before
