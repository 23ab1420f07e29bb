"""The figure of an experiment, and the numbers it shows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from rhoselect.grids.outcomes import Outcome
from rhoselect.grids.spec import Spec
from rhoselect.grids.table import Row
from rhoselect.report.drawing import panels_png
from rhoselect.report.metric import Metric

PANELS_A_ROW = 3


def curves(spec: Spec, outcomes: Sequence[Outcome]) -> list[Row]:
    """The smoothed metric against steps of every group and arm: steps [E], and over the seeds
    median, low and high [E], at the evaluations that all seeds have."""
    found: list[Row] = []
    for group in spec.group:
        for arm in spec.arm:
            key = (group.name, arm.name)
            runs = [o.run for o in outcomes if (o.cell.group.name, o.cell.arm.name) == key]
            if not runs:
                continue
            count = min(len(run.steps) for run in runs)
            values = np.stack([run.smooth[:count] for run in runs])
            bands = {"median": np.median(values, 0), "low": values.min(0), "high": values.max(0)}
            steps = runs[0].steps[:count].tolist()
            numbers = {name: band.round(5).tolist() for name, band in bands.items()}
            found.append({"group": group.name, "arm": arm.name, "steps": steps, **numbers})
    return found


def figure(spec: Spec, found: Sequence[Row], lines: Sequence[Row]) -> bytes:
    """A PNG: a panel a group (and a measure, for bars)."""
    groups = [g.name for g in spec.group if any(row["group"] == g.name for row in found)]
    measures = spec.figure.measures if spec.figure.kind == "bars" else [""]
    panels = [
        partial(panel, group, measure, found, lines) for group in groups for measure in measures
    ]
    return panels_png(panels, min(PANELS_A_ROW, len(panels)), (4.0, 3.4), spec.title)


def panel(group: str, measure: str, found: Sequence[Row], lines: Sequence[Row], axes: Axes) -> None:
    """One panel, drawn: curves, or the bars of a measure."""
    rows = [row for row in found if row["group"] == group]
    label = Metric.of(rows[0]).label
    if measure:
        _bars(axes, measure, label, rows)
    else:
        _curves(axes, label, [line for line in lines if line["group"] == group])
    axes.set_title(group)


def _curves(axes: Axes, label: str, lines: Sequence[Row]) -> None:
    for line in lines:
        axes.plot(line["steps"], line["median"], label=line["arm"])
        axes.fill_between(line["steps"], line["low"], line["high"], alpha=0.2)
    axes.set(xlabel="optimizer steps", ylabel=f"test {label}")
    axes.legend(fontsize=8)


def _bars(axes: Axes, measure: str, label: str, found: Sequence[Row]) -> None:
    shown: list[tuple[str, dict[str, Any]]] = [
        (row["arm"], row[measure]) for row in found if row.get(measure)
    ]
    medians = [figure["median"] for _, figure in shown]
    errors = [
        [figure["median"] - figure["low"] for _, figure in shown],
        [figure["high"] - figure["median"] for _, figure in shown],
    ]
    places = range(len(shown))
    axes.barh(places, medians, xerr=errors if shown else None, height=0.7, capsize=2)
    axes.set_yticks(places, [arm for arm, _ in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(measure.replace("_metric", f" {label}").replace("_", " "))
