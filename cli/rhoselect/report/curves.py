"""The charts of the page: the main figure of each arm, and what its batches consist of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rhoselect.report.arms import Arm
from rhoselect.report.chart import Chart, Curve
from rhoselect.report.coverage import Coverage
from rhoselect.report.metric import Floats
from rhoselect.report.verdict import Outcome

BINS = 60
"""Means of batches that a curve over the steps is drawn from, at most."""
STEPS = "optimizer steps"


def metric_chart(found: Sequence[Outcome]) -> Chart:
    """The smoothed main figure against steps, the mean of an arm's seeds in a band from the least
    to the greatest; dots where arms reach the target."""
    curves = [_curve(each.arm) for each in found]
    target = found[0].target
    marks = [
        (each.steps.sure, target, number)
        for number, each in enumerate(found)
        if each.steps.sure is not None and len(found) > 1
    ]
    marks += [(c.x[0], c.y[0], n) for n, c in enumerate(curves) if len(c.x) == 1]  # no line
    metric = found[0].arm.first.metric
    span = metric.span([run.smooth for each in found for run in each.arm.runs])
    title = f"Test {metric.label}, a mean of three neighbouring evaluations"
    if any(len(each.arm.runs) > 1 for each in found):
        title += "; line: mean of the seeds, band: all of them"
    level = target if len(found) > 1 else None
    return Chart(title, STEPS, curves, span, marks, level, metric.is_share)


def _curve(arm: Arm) -> Curve:
    steps = arm.first.steps
    alike = [run.smooth for run in arm.runs if np.array_equal(run.steps, steps)]
    values = np.stack(alike)
    if len(alike) == 1:
        return Curve(arm.name, steps, values[0])
    return Curve(arm.name, steps, values.mean(0), values.min(0), values.max(0))


def selected_charts(arms: Sequence[Arm], coverages: Sequence[Coverage | None]) -> list[Chart]:
    """Shares of each batch over the steps, of the first seed of each arm, where they are known:
    points that are corrupted, already correct, selected before, relevant. Dotted: the share in the
    train split."""
    kinds: dict[str, list[Curve]] = {}
    for arm, coverage in zip(arms, coverages, strict=True):
        chosen = arm.first.selected
        shares: dict[str, tuple[Floats | None, float | None]] = {
            "With a wrong label": (chosen.corrupted, None),
            "Classified correctly before the step": (chosen.correct, None),
        }
        if coverage is not None:
            noisy, relevant = coverage.noisy, coverage.relevant
            shares["With a wrong label"] = chosen.corrupted, noisy.all if noisy else None
            shares["Selected before"] = coverage.repeats, None
            shares["Relevant"] = coverage.relevance, relevant.all if relevant else None
        for name, (values, level) in shares.items():
            known = values is not None and not np.isnan(values).all()
            x, y = (
                _means(values) if known and values is not None else (np.ones(1), np.full(1, np.nan))
            )
            kinds.setdefault(name, []).append(Curve(arm.name, x, y, level=level))
    drawn = {
        k: curves for k, curves in kinds.items() if not all(np.isnan(c.y).all() for c in curves)
    }
    return [Chart(name, STEPS, curves, (0.0, 1.0)) for name, curves in drawn.items()]


def _means(values: Floats) -> tuple[Floats, Floats]:
    """Middle steps [M] and means [M] of at most BINS runs of neighbouring values, as known."""
    parts = np.array_split(values, min(BINS, len(values)))
    ends = np.cumsum([len(part) for part in parts])
    middles = np.array([end - len(part) / 2 for end, part in zip(ends, parts, strict=True)])
    known = [part[~np.isnan(part)] for part in parts]
    means = np.array([part.mean() if len(part) else np.nan for part in known])
    return middles, means
