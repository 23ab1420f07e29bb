"""The figures of a report: one PNG for a README, and SVGs for the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes

from rhoselect.report.coverage import Coverage
from rhoselect.report.drawing import Panel, panels_png, panels_svg
from rhoselect.report.runs import Floats, Ints, Run

BINS = 60
"""Means of batches that a curve over the steps is drawn from, at most."""
STEPS, SECONDS = "optimizer steps", "seconds (dashed: with those before the run)"
SCALES: dict[str, Callable[[Run], tuple[Ints | Floats, float]]] = {
    STEPS: lambda run: (run.steps, 0.0),
    "candidates drawn": lambda run: (run.candidates, 0.0),
    SECONDS: lambda run: (run.seconds, run.prior_seconds),
    "FLOPs (dashed: with those before the run)": lambda run: (run.flops, run.prior_flops),
}
"""What accuracy is drawn against, and how much of it was spent before the run."""


def figure(runs: Sequence[Run]) -> bytes:
    """A PNG: smoothed test accuracy against optimizer steps and against seconds."""
    bottom = _bottom(runs)

    def by_step(axes: Axes) -> None:
        for run in runs:
            label = f"{run.summary['method']} ({run.summary['workers']} workers)"
            axes.plot(run.steps, run.smooth, ".-", label=label)
        axes.set(xlabel=STEPS, ylabel="test accuracy (mean of 3 evaluations)")
        axes.set_ylim(bottom=bottom)
        axes.legend(loc="lower right")

    def by_second(axes: Axes) -> None:
        for run in runs:
            axes.plot(run.seconds, run.smooth, ".-")
        axes.set(xlabel="seconds of training (IL model not counted)")
        axes.set_ylim(bottom=bottom)

    return panels_png([by_step, by_second], 2, (4.5, 4.0))


def accuracy_svg(runs: Sequence[Run], scales: Sequence[str] = tuple(SCALES)) -> bytes:
    """Smoothed test accuracy against steps, candidates, seconds and FLOPs, or some of them; the
    last two also with what the irreducible losses (or the proxy) took before the run, dashed."""

    def panel(scale: str) -> Panel:
        def draw(axes: Axes) -> None:
            for number, run in enumerate(runs):
                values, prior = SCALES[scale](run)
                axes.plot(values, run.smooth, ".-", color=f"C{number}", label=run.name)
                if prior:
                    axes.plot(values + prior, run.smooth, "--", color=f"C{number}")
            axes.set(xlabel=scale, ylabel="test accuracy (mean of 3 evaluations)")
            axes.set_ylim(bottom=_bottom(runs))
            axes.legend(loc="lower right")

        return draw

    return panels_svg([panel(scale) for scale in scales])


def selected_svg(runs: Sequence[Run], coverages: Sequence[Coverage | None]) -> bytes:
    """Properties of the selected points over the steps: shares [T] of each batch that are
    corrupted, already correct, repeats, relevant; those that some run knows. Dotted: the share in
    the train split."""
    found: dict[str, list[tuple[int, Floats, float | None]]] = {}
    for number, (run, coverage) in enumerate(zip(runs, coverages, strict=True)):
        shares: dict[str, tuple[Floats | None, float | None]] = {
            "corrupted": (run.selected.corrupted, None),
            "already correct": (run.selected.correct, None),
        }
        if coverage is not None:
            noisy, relevant = coverage.noisy, coverage.relevant
            shares["corrupted"] = run.selected.corrupted, noisy.all if noisy else None
            shares["selected before"] = coverage.repeats, None
            shares["relevant"] = coverage.relevance, relevant.all if relevant else None
        for name, (values, base) in shares.items():
            if values is not None and not np.isnan(values).all():
                found.setdefault(name, []).append((number, values, base))

    def panel(name: str) -> Panel:
        def draw(axes: Axes) -> None:
            for number, values, base in found[name]:
                axes.plot(*_means(values), color=f"C{number}", label=runs[number].name)
                if base is not None:
                    axes.axhline(base, color=f"C{number}", linestyle=":")
            axes.set(xlabel=STEPS, ylabel=f"share {name}", ylim=(-0.02, 1.02))
            axes.legend()

        return draw

    return panels_svg([panel(name) for name in found])


def classes_svg(runs: Sequence[Run], coverages: Sequence[Coverage | None]) -> bytes:
    """Worst-class accuracy over the steps; and the share of each class that was never selected,
    where that is known."""

    def worst(axes: Axes) -> None:
        for number, run in enumerate(runs):
            axes.plot(run.steps, run.worst_class_accuracy, ".-", color=f"C{number}", label=run.name)
        axes.set(xlabel=STEPS, ylabel="accuracy of the worst class")
        axes.legend(loc="lower right")

    def skipped(axes: Axes) -> None:
        for number, (run, coverage) in enumerate(zip(runs, coverages, strict=True)):
            if coverage is not None:
                axes.plot(coverage.class_skipped, "o", color=f"C{number}", label=run.name)
        axes.set(xlabel="class", ylabel="share never selected", ylim=(-0.02, 1.02))
        axes.legend()

    known = any(coverage is not None for coverage in coverages)
    return panels_svg([worst, skipped] if known else [worst])


def _means(values: Floats) -> tuple[Floats, Floats]:
    """Middle steps [M] and means [M] of at most BINS runs of neighbouring values, as known."""
    parts = np.array_split(values, min(BINS, len(values)))
    ends = np.cumsum([len(part) for part in parts])
    middles = np.array([end - len(part) / 2 for end, part in zip(ends, parts, strict=True)])
    known = [part[~np.isnan(part)] for part in parts]
    means = np.array([part.mean() if len(part) else np.nan for part in known])
    return middles, means


def _bottom(runs: Sequence[Run]) -> float:
    """Where the accuracy axis begins: early evaluations need not be seen."""
    return max(0.0, min(float(np.median(run.accuracy)) for run in runs) - 0.05)
