"""A finished run of a grid: its curve, and the properties of the points it selected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rhoselect.config import parse
from rhoselect.data import SplitPoints, open_data
from rhoselect.errors import RunFolderError
from rhoselect.grids.grid import Cell
from rhoselect.report.coverage import first_times
from rhoselect.report.runs import Run, late, load_run, mean


@dataclass(frozen=True)
class Outcome:
    """A finished run of the grid; ``data`` is the folder of its data set."""

    cell: Cell
    run: Run
    data: Path

    def steps_to(self, target: float) -> float:
        """The first step whose smoothed figure is as good as that, or infinity."""
        place = self.run.first(target)
        return float("inf") if place is None else float(self.run.steps[place])

    def properties(self, weakest: float) -> dict[str, float | None]:
        """Shares of the selected points, None where not known. ``weakest`` is the worst final
        figure of the runs compared: ``correct_share_below`` is averaged over the steps before
        this run reached it, as methods that learn more find more points correct (Figure 3)."""
        chosen = self.run.selected
        below = np.arange(len(chosen.correct)) < self.steps_to(weakest)
        train, indices = self._train(), chosen.indices
        relevant = train.relevant(indices)
        return {
            "corrupted_share": mean(chosen.corrupted),
            "corrupted_share_late": mean(late(chosen.corrupted)),
            "correct_share": mean(chosen.correct),
            "correct_share_below": mean(chosen.correct[below]),
            "relevant_share": None if relevant is None else float(relevant.mean()),
            "repeat_share": 1 - float(first_times(train, indices).mean()),
        }

    def _train(self) -> SplitPoints:
        return open_data(parse({"data": {"path": str(self.data)}}).data).split("train")


def load(cell: Cell, path: Path, data: Path) -> Outcome:
    """Read a finished run folder. Raises RunFolderError."""
    run = load_run(path)
    if not len(run.steps) or not len(run.selected.indices):
        raise RunFolderError(f"run folder {path}: has no evaluations or no steps; run it again")
    return Outcome(cell, run, data)
