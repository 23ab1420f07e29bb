"""Figures of several panels, as PNG or SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SVG_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "rhoselect", "font.size": 9.0}
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


def panels_svg(panels: Sequence[Panel], columns: int = 2) -> bytes:
    """The panels in rows of ``columns``: the same bytes for the same content."""
    rows = -(-len(panels) // columns)
    height = 3.3 * rows
    with rc_context(SVG_STYLE):  # type: ignore[arg-type]
        drawing = Figure(figsize=(10, height))
        _draw(drawing, panels, rows, columns)
        drawing.subplots_adjust(0.07, 0.5 / height, 0.99, 0.99, 0.2, 0.25)
        return _saved(drawing, "svg", metadata={"Date": None})


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
