"""The figures of a report: one PNG for a README, and SVGs for the page."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rhoselect.report.runs import Floats, Ints, Run
from rhoselect.report.selection import Selection

BINS = 60
"""Means of batches that a curve over the steps is drawn from, at most."""
COLUMNS = 2
STEPS, SECONDS = "optimizer steps", "seconds (dashed: with those before the run)"
SCALES: dict[str, Callable[[Run], tuple[Ints | Floats, float]]] = {
    STEPS: lambda run: (run.steps, 0.0),
    "candidates drawn": lambda run: (run.candidates, 0.0),
    SECONDS: lambda run: (run.seconds, run.prior_seconds),
    "FLOPs (dashed: with those before the run)": lambda run: (run.flops, run.prior_flops),
}
"""What accuracy is drawn against, and how much of it was spent before the run."""
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "rhoselect", "font.size": 9.0}
Panel = Callable[[Axes], None]


def figure(runs: Sequence[Run]) -> bytes:
    """A PNG: smoothed test accuracy against optimizer steps and against seconds."""
    drawing = Figure(figsize=(10, 4), layout="constrained")
    by_step, by_second = drawing.subplots(1, 2, sharey=True)
    for run in runs:
        label = f"{run.summary['method']} ({run.summary['workers']} workers)"
        by_step.plot(run.steps, run.smooth, ".-", label=label)
        by_second.plot(run.seconds, run.smooth, ".-", label=label)
    by_step.set(xlabel="optimizer steps", ylabel="test accuracy (mean of 3 evaluations)")
    by_second.set(xlabel="seconds of training (IL model not counted)")
    by_step.set_ylim(bottom=_bottom(runs))
    for axes in (by_step, by_second):
        axes.grid(alpha=0.3)
    by_step.legend(loc="lower right")
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


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

    return _svg([panel(scale) for scale in scales])


def selected_svg(runs: Sequence[Run], selections: Sequence[Selection | None]) -> bytes:
    """Properties of the selected points over the steps: shares [T] of each batch that are
    corrupted, already correct, repeats, relevant; those that some run knows. Dotted: the share in
    the train split."""
    found: dict[str, list[tuple[int, Floats, float | None]]] = {}
    for number, (run, selection) in enumerate(zip(runs, selections, strict=True)):
        shares: dict[str, tuple[Floats | None, float | None]] = {
            "corrupted": (run.selected.corrupted, None),
            "already correct": (run.selected.correct, None),
        }
        if selection is not None:
            noisy, relevant = selection.noisy, selection.relevant
            shares["corrupted"] = run.selected.corrupted, noisy.all if noisy else None
            shares["selected before"] = selection.repeats, None
            shares["relevant"] = selection.relevance, relevant.all if relevant else None
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

    return _svg([panel(name) for name in found])


def classes_svg(runs: Sequence[Run], selections: Sequence[Selection | None]) -> bytes:
    """Worst-class accuracy over the steps; and the share of each class that was never selected,
    where that is known."""

    def worst(axes: Axes) -> None:
        for number, run in enumerate(runs):
            axes.plot(run.steps, run.worst_class_accuracy, ".-", color=f"C{number}", label=run.name)
        axes.set(xlabel=STEPS, ylabel="accuracy of the worst class")
        axes.legend(loc="lower right")

    def skipped(axes: Axes) -> None:
        for number, (run, selection) in enumerate(zip(runs, selections, strict=True)):
            if selection is not None:
                axes.plot(selection.class_skipped, "o", color=f"C{number}", label=run.name)
        axes.set(xlabel="class", ylabel="share never selected", ylim=(-0.02, 1.02))
        axes.legend()

    known = any(selection is not None for selection in selections)
    return _svg([worst, skipped] if known else [worst])


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


def _svg(panels: Sequence[Panel]) -> bytes:
    """The panels in two columns, the same bytes for the same content."""
    rows = -(-len(panels) // COLUMNS)
    with rc_context(STYLE):  # type: ignore[arg-type]
        drawing = Figure(figsize=(10, 3.3 * rows))
        grid = drawing.subplots(rows, COLUMNS, squeeze=False).flatten()
        for axes, panel in zip(grid, panels, strict=False):
            panel(axes)
            axes.grid(alpha=0.3)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        drawing.subplots_adjust(0.07, 0.5 / (3.3 * rows), 0.99, 0.99, 0.2, 0.25)
        buffer = io.BytesIO()
        drawing.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
