"""The map as one picture: at equal steps, and at equal device-seconds."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from page import FULL, TITLES
from table import Gain, Row

from rhoselect.files import replacing

COLUMNS = [(noise, copies) for copies in (1, 5) for noise in (0.0, 0.1, 0.4)] + [(None, 1)]


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the picture of all cells as PNG."""
    lines = list(dict.fromkeys((row.first["target"], row.first["budget"]) for row in rows))
    drawing = Figure(figsize=(15, 1.6 + 0.62 * len(lines)), layout="constrained")
    left, right = drawing.subplots(1, 2, sharey=True)
    panel(left, "at equal steps (scoring is free)", rows, lines, lambda row: row.steps)
    panel(right, "at equal device-seconds (one device pays)", rows, lines, lambda row: row.seconds)
    left.set_yticks(
        [place + 0.5 for place in range(len(lines))],
        [f"{TITLES.get(target, target)}, {budget}" for target, budget in lines],
        fontsize=11,
    )
    drawing.suptitle(
        "RHO-LOSS against uniform batches: what it gains.  "
        "Green wins, red loses, white is a draw, hatched was not run.\n"
        "Accuracy in points; GPT in bits per byte.",
        fontsize=13,
    )
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=110)
    with replacing(path) as beside:
        beside.write_bytes(buffer.getvalue())


def panel(
    axes: Axes,
    title: str,
    rows: Sequence[Row],
    lines: Sequence[tuple[str, str]],
    of: Callable[[Row], Gain | None],
) -> None:
    """One of both comparisons: a line a target and budget, a column a noise and copies."""
    for row in rows:
        first = row.first
        x = COLUMNS.index((first["noise"], first["copies"]))
        square(axes, (x, lines.index((first["target"], first["budget"]))), of(row), row)
    axes.set(xlim=(0, len(COLUMNS)), ylim=(len(lines), 0), title=title)
    names = [
        "as\nthey are" if noise is None else f"{noise:.0%}\n{'once' if copies == 1 else '5 times'}"
        for noise, copies in COLUMNS
    ]
    axes.set_xticks([place + 0.5 for place in range(len(COLUMNS))], names, fontsize=10)
    axes.set_xlabel("wrong labels, and how often each point is there")
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def square(axes: Axes, at: tuple[int, int], gain: Gain | None, row: Row) -> None:
    """A cell's gain by colour and number; a draw stays white, what was not run is hatched."""
    if gain is None:
        axes.add_patch(Rectangle(at, 1, 1, fill=False, hatch="///", edgecolor="0.8"))
        axes.text(at[0] + 0.5, at[1] + 0.5, "not run", ha="center", va="center", fontsize=8)
        return
    strength = min(1.0, abs(gain.mean) / FULL[row.metric.is_share])
    clear = gain.word in ("wins", "loses")
    colors = colormaps["Greens" if gain.mean > 0 else "Reds"]
    color = colors(0.25 + 0.4 * strength) if clear else "white"
    edge = "white" if clear else "0.8"
    axes.add_patch(Rectangle(at, 1, 1, facecolor=color, edgecolor=edge, lw=2))
    digits = 1 if row.metric.is_share else 2
    text = f"{gain.mean:+.{digits}f}" + ("" if gain.pairs > 1 else "\n1 seed")
    weight = "bold" if clear else "normal"
    x, y = at[0] + 0.5, at[1] + 0.5
    axes.text(x, y, text, ha="center", va="center", fontsize=12, fontweight=weight)
