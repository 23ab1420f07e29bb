"""The main figure of runs: its name, what is better, and how it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rhoselect.report.units import percent

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A figure by ``name``; of ``direction`` "max" the greatest is best, of "min" the least."""

    name: str = "accuracy"
    direction: str = "max"

    @classmethod
    def of(cls, summary: dict[str, Any]) -> Metric:
        """That of a run; earlier versions measured accuracy alone."""
        return cls(summary.get("metric", "accuracy"), summary.get("metric_direction", "max"))

    @property
    def label(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")

    @property
    def is_share(self) -> bool:
        """Whether it is a share, written in percent."""
        return self.name.endswith("accuracy")

    def text(self, value: float) -> str:
        """0.8416 as 84.2% of an accuracy, else as 0.8416."""
        return percent(value) if self.is_share else f"{value:.4g}"

    def difference(self, value: float, signed: str = "") -> str:
        """0.0123 as 1.23 (points of an accuracy), else as 0.0123; with its sign if ``signed`` is
        "+"."""
        return f"{100 * value:{signed}.2f}" if self.is_share else f"{value:{signed}.3g}"

    def worth(self, value: float) -> float:
        """The value, or its negative where the least is best: greater is better."""
        return value if self.direction == "max" else -value

    def best(self, values: Floats) -> float:
        """The best of some."""
        return float(values.max() if self.direction == "max" else values.min())

    def worst(self, values: Sequence[float]) -> float:
        """The worst of some."""
        return min(values) if self.direction == "max" else max(values)

    def first(self, values: Floats, bound: float) -> int | None:
        """The place of the first value that is as good as ``bound``, or better."""
        reached = np.flatnonzero(values >= bound if self.direction == "max" else values <= bound)
        return int(reached[0]) if len(reached) else None

    def span(self, curves: Sequence[Floats]) -> tuple[float, float]:
        """The bounds of an axis: early evaluations, which are far worse, need not be seen."""
        best = self.best(np.array([self.best(curve) for curve in curves]))
        typical = self.worst([float(np.median(curve)) for curve in curves])
        if self.is_share:
            low = max(0.0, typical - 0.05)
            return low, min(1.0, best + 0.05 * (best - low) + 1e-3)
        room = abs(best - typical) or abs(best) or 1.0
        low, high = min(best, typical), max(best, typical)
        return low - 0.1 * room, high + 0.5 * room


def smoothed(values: Floats) -> Floats:
    """Means [E] of three neighbours (two at the ends) of ``values`` [E]."""
    if not len(values):  # which np.convolve refuses
        return values
    kernel = np.ones(3)
    total = np.convolve(values, kernel)[1:-1]  # also of fewer than three
    counts = np.convolve(np.ones(len(values)), kernel)[1:-1]
    return np.asarray(total / counts)
