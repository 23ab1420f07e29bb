"""Charts of a page: SVG curves that stretch with it, below text of HTML that keeps its size.

Colours are classes c0 … c5 of style.css, so that they suit light and dark pages.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rhoselect.report.metric import Floats
from rhoselect.report.runs import Ints
from rhoselect.report.units import count

COLOURS = 6
SIDE = 1000
"""Both sides of the drawing, in its own units; it is stretched to the size that it is given."""
Range = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """A curve through (``x``, ``y``) [P]; with ``low`` and ``high`` [P] the borders of its band.

    Values that are NaN are left out, those beyond the chart are cut off. ``level`` is drawn as a
    dotted line of the same colour.
    """

    name: str
    x: Ints | Floats
    y: Floats
    low: Floats | None = None
    high: Floats | None = None
    level: float | None = None


@dataclass(frozen=True)
class Chart:
    """What a chart shows: ``y`` against ``x``, between the bounds ``span``; ``shares`` are written
    in percent.

    ``marks``: (x, y, number of the curve) of points to show. ``target``: a level that all curves
    are compared with.
    """

    title: str
    x_label: str
    curves: Sequence[Curve]
    span: Range
    marks: Sequence[tuple[float, float, int]] = field(default_factory=list)
    target: float | None = None
    shares: bool = True

    def figure(self, big: bool = False) -> str:
        """The chart as a figure that is as wide as its place."""
        right = max((float(np.max(curve.x)) for curve in self.curves), default=1.0)
        paths = "".join(self._curve(number, right) for number in range(len(self.curves)))
        across, up = ticks((0.0, right), 4), ticks(self.span, 5)
        grid = "".join(
            f"<path class=grid d='M0 {self._y(at):.1f}H{SIDE}'/>" for at in up
        ) + self._level(self.target, "target")
        scale, unit = (100, "%") if self.shares else (1, "f")
        digits = max(0, math.ceil(-math.log10((up[1] - up[0]) * scale))) if len(up) > 1 else 0
        labels = "".join(
            f"<span class=y style='bottom:{self._share(at):.2%}'>{at:.{digits}{unit}}</span>"
            for at in up
        ) + "".join(
            f"<span class=x style='left:{at / right:.2%}'>{count(at)}</span>" for at in across
        )
        dots = "".join(
            f"<i class='dot c{number % COLOURS}' style='left:{x / right:.2%};"
            f"bottom:{self._share(y):.2%}'></i>"
            for x, y, number in self.marks
        )
        title = html.escape(self.title)
        return (
            f"<figure class='chart{' big' if big else ''}'><figcaption>{title}</figcaption>"
            f"{self._legend()}<div class=plot>"
            f"<svg viewBox='0 0 {SIDE} {SIDE}' preserveAspectRatio=none role=img"
            f" aria-label='{title}'>{grid}{paths}</svg>{labels}{dots}</div>"
            f"<div class=axis>{html.escape(self.x_label)}</div></figure>"
        )

    def _legend(self) -> str:
        items = "".join(
            f"<li class=c{number % COLOURS}>{html.escape(curve.name)}</li>"
            for number, curve in enumerate(self.curves)
            if not np.isnan(curve.y).all()
        )
        return f"<ul class=legend>{items}</ul>"

    def _curve(self, number: int, right: float) -> str:
        curve, colour = self.curves[number], f"c{number % COLOURS}"
        x = np.asarray(curve.x, np.float64) / right * SIDE
        drawn = ""
        if curve.low is not None and curve.high is not None:
            band = _points(x, self._ys(curve.low)) + _points(x[::-1], self._ys(curve.high)[::-1])
            drawn = f"<polygon class='band {colour}' points='{band}'/>"
        return (
            f"{drawn}<polyline class={colour} points='{_points(x, self._ys(curve.y))}'/>"
            + self._level(curve.level, f"level {colour}")
        )

    def _level(self, value: float | None, kind: str) -> str:
        if value is None:
            return ""
        return f"<path class='{kind}' d='M0 {self._y(value):.1f}H{SIDE}'/>"

    def _share(self, value: float) -> float:
        """How high a value is drawn, between 0 and 1; what is below the chart at its edge."""
        low, high = self.span
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def _y(self, value: float) -> float:
        return SIDE * (1 - self._share(value))

    def _ys(self, values: Floats) -> Floats:
        low, high = self.span
        return SIDE * (1 - (values - low) / (high - low))


def ticks(span: Range, most: int) -> list[float]:
    """Round values within ``span``, ``most`` or a few less."""
    low, high = span
    raw = (high - low) / most
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 5, 10) if m * scale >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _points(x: Floats, y: Floats) -> str:
    known = ~np.isnan(y)
    return "".join(f"{a:.1f},{b:.1f} " for a, b in zip(x[known], y[known], strict=True))
