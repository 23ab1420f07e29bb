"""Figures of several panels, as PNG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Panel = Callable[[Axes], None]
"""Draws one panel."""


def panels_png(
    panels: Sequence[Panel], columns: int, size: tuple[float, float], title: str = ""
) -> bytes:
    """The panels in rows of ``columns``, each of ``size`` = (width, height) in inches."""
    rows = -(-len(panels) // columns)
    drawing = Figure(figsize=(1 + size[0] * columns, size[1] * rows), layout="constrained")
    _draw(drawing, panels, rows, columns)
    if title:
        drawing.suptitle(title)
    return _saved(drawing, "png", dpi=120)


def _draw(drawing: Figure, panels: Sequence[Panel], rows: int, columns: int) -> None:
    grid = drawing.subplots(rows, columns, squeeze=False).flatten()
    for axes, panel in zip(grid, panels, strict=False):
        panel(axes)
        axes.grid(alpha=0.3)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()


def _saved(drawing: Figure, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    drawing.savefig(buffer, format=kind, **options)
    return buffer.getvalue()
