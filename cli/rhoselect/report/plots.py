"""The curves alone, as a PNG for a README."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from rhoselect.report.drawing import panels_png
from rhoselect.report.runs import Run, bottom

STEPS = "optimizer steps"


def figure(runs: Sequence[Run]) -> bytes:
    """A PNG: smoothed test accuracy against optimizer steps and against seconds."""
    lowest = bottom(runs)

    def by_step(axes: Axes) -> None:
        for run in runs:
            axes.plot(run.steps, run.smooth, ".-", label=run.name)
        axes.set(xlabel=STEPS, ylabel="test accuracy (mean of 3 evaluations)")
        axes.set_ylim(bottom=lowest)
        axes.legend(loc="lower right")

    def by_second(axes: Axes) -> None:
        for run in runs:
            axes.plot(run.seconds, run.smooth, ".-")
        axes.set(xlabel="seconds of training (IL model not counted)")
        axes.set_ylim(bottom=lowest)

    return panels_png([by_step, by_second], 2, (4.5, 4.0))
