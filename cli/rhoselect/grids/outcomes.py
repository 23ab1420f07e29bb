"""What one finished run tells: its curve, and the properties of the points it selected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rhoselect.config import parse
from rhoselect.data import SplitPoints, open_data
from rhoselect.errors import RunFolderError
from rhoselect.grids.spec import Cell
from rhoselect.report import Run, load_run
from rhoselect.trainer.records import read_evaluations, read_steps

Array = npt.NDArray[Any]
LATE = 0.75


@dataclass(frozen=True)
class Outcome:
    """A run of the grid and its records; shares [T] a step, NaN where not known."""

    cell: Cell
    run: Run
    worst_class_accuracy: float
    corrupted: Array
    correct: Array
    indices: list[Array]
    data: Path

    @property
    def final(self) -> float:
        """Mean of the last three accuracies."""
        return float(self.run.accuracy[-3:].mean())

    def steps_to(self, accuracy: float) -> float:
        """The first step whose smoothed accuracy is at least that, or infinity."""
        place = self.run.first(accuracy)
        return float("inf") if place is None else float(self.run.steps[place])

    def properties(self, weakest: float) -> dict[str, float | None]:
        """Shares of the selected points, None where not known. ``weakest`` is the lowest final
        accuracy of the runs compared: ``correct_share_below`` is averaged over the steps before
        this run reached it, as methods that learn more find more points correct (Figure 3)."""
        below = np.arange(len(self.correct)) < self.steps_to(weakest)
        late = slice(int(LATE * len(self.corrupted)), None)
        return {
            "corrupted_share": _mean(self.corrupted),
            "corrupted_share_late": _mean(self.corrupted[late]),
            "correct_share": _mean(self.correct),
            "correct_share_below": _mean(self.correct[below]),
            "relevant_share": self._relevant_share(),
            "repeat_share": self._repeat_share(),
        }

    def _relevant_share(self) -> float | None:
        relevant = _train(self.data).relevant(np.concatenate(self.indices))
        return None if relevant is None else float(relevant.mean())

    def _repeat_share(self) -> float:
        """Share of the points trained on that had been trained on before; duplicates count as
        one."""
        selected = _train(self.data).originals(np.concatenate(self.indices))
        return 1 - len(np.unique(selected)) / len(selected)


def load(cell: Cell, path: Path, data: Path) -> Outcome:
    """Read a finished run folder. Raises RunFolderError."""
    run, steps = load_run(path), read_steps(path)
    if not len(run.steps) or not len(steps):
        raise RunFolderError(f"run folder {path}: has no evaluations or no steps; run it anew")
    corrupted, correct = (
        np.array(steps[name].to_pylist(), np.float64)
        for name in ("corrupted_share", "correct_share")
    )
    indices = [np.array(row, np.int64) for row in steps["indices"].to_pylist()]
    worst = float(read_evaluations(path)[-1]["worst_class_accuracy"])
    return Outcome(cell, run, worst, corrupted, correct, indices, data)


def _train(data: Path) -> SplitPoints:
    return open_data(parse({"data": {"path": str(data)}}).data).split("train")


def _mean(values: Array) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
