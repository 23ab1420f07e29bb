"""The curves alone, as a PNG for a README."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from rhoselect.report.drawing import panels_png
from rhoselect.report.runs import Run

STEPS = "optimizer steps"


def figure(runs: Sequence[Run]) -> bytes:
    """A PNG: the smoothed main figure against optimizer steps and against seconds."""
    metric = runs[0].metric
    low, high = metric.span([run.smooth for run in runs])
    rises = metric.direction == "max"

    def bounded(axes: Axes) -> None:
        axes.set_ylim(bottom=low) if rises else axes.set_ylim(top=high)

    def by_step(axes: Axes) -> None:
        for run in runs:
            axes.plot(run.steps, run.smooth, ".-", label=run.name)
        axes.set(xlabel=STEPS, ylabel=f"test {metric.label} (mean of 3 evaluations)")
        bounded(axes)
        axes.legend(loc="lower right" if rises else "upper right")

    def by_second(axes: Axes) -> None:
        for run in runs:
            axes.plot(run.seconds, run.smooth, ".-")
        axes.set(xlabel="seconds of training (IL model not counted)")
        bounded(axes)

    return panels_png([by_step, by_second], 2, (4.5, 4.0))
