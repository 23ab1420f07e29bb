"""Draws the dashboard's panels from a live Prometheus, where no Grafana is at hand:

    python deploy/grafana/picture.py http://localhost:9090 RUN [--minutes 10] [--out dashboard.png]

RUN is the name of the run's folder. The queries are those of dashboards/rhoselect.json.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, Formatter, PercentFormatter, StrMethodFormatter

DASHBOARD = Path(__file__).with_name("dashboards") / "rhoselect.json"
POINTS = 240
COLUMNS = 3
UNITS = {
    "percentunit": PercentFormatter(1.0, decimals=0),
    "s": EngFormatter("s"),
    "bytes": EngFormatter("B"),
    "Bps": EngFormatter("B/s"),
    "short": StrMethodFormatter("{x:,g}"),
}
Series = tuple[str, list[float], list[float]]


def rows(dashboard: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Panels by the title of their row, those of closed rows, too."""
    found: dict[str, list[dict[str, Any]]] = {}
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            found[panel["title"]] = here = list(panel.get("panels") or [])
        else:
            here.append(panel)
    return found


def series(server: str, run: str, target: dict[str, str], start: float, end: float) -> list[Series]:
    """Legend, minutes since ``start`` and values of every series of a panel's query."""
    name = re.escape(run).replace("\\", "\\\\")  # a regular expression in a PromQL string
    query = target["expr"].replace("$run", name)
    step = max(1.0, (end - start) / POINTS)
    asked = urlencode({"query": query, "start": start, "end": end, "step": step})
    with urlopen(f"{server}/api/v1/query_range?{asked}", timeout=30) as answer:
        results = json.load(answer)["data"]["result"]
    found = []
    for result in results:
        times = [(float(at) - start) / 60 for at, _ in result["values"]]
        label = legend(target["legendFormat"], result["metric"])
        found.append((label, times, [float(value) for _, value in result["values"]]))
    return found


def legend(pattern: str, labels: dict[str, str]) -> str:
    """Grafana's {{label}} filled in, but for the run, of which there is one here."""
    known = {**labels, "run": ""}
    return re.sub(r"{{(\w+)}}", lambda found: known.get(found[1], ""), pattern).strip()


def draw(axes: Axes, panel: dict[str, Any], lines: list[Series]) -> None:
    """One panel, its legend below the curves. Series that are nothing throughout are left out of a
    stack."""
    defaults = panel["fieldConfig"]["defaults"]
    axes.set_title(panel["title"], fontsize=9, loc="left")
    if panel["type"] == "stat":
        _number(axes, UNITS[defaults["unit"]], lines)
        return
    if "stacking" in defaults.get("custom", {}):
        lines = [line for line in lines if max(line[2]) > 0.002 * max(max(v) for *_, v in lines)]
        times = sorted({at for _, ats, _ in lines for at in ats})
        heights = [
            [dict(zip(ats, v, strict=True)).get(at, 0) for at in times] for _, ats, v in lines
        ]
        axes.stackplot(times, heights, labels=[name for name, *_ in lines], alpha=0.8)
    else:
        for name, times, values in lines:
            axes.plot(times, values, label=name, linewidth=1.2)
    axes.yaxis.set_major_formatter(UNITS[defaults["unit"]])
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.set_xlabel("minutes", fontsize=7)
    if any(name for name, *_ in lines):
        axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(0, -0.22), ncols=4, frameon=False)


def _number(axes: Axes, unit: Formatter, lines: list[Series]) -> None:
    """The last value, large, above a faint curve."""
    axes.set_axis_off()
    axes.yaxis.set_major_formatter(unit)
    for _, times, values in lines:
        axes.fill_between(times, values, alpha=0.15)
        last = round(values[-1]) if values[-1] >= 1000 else float(f"{values[-1]:.3g}")
        axes.text(0.0, 0.4, unit(last), fontsize=20, transform=axes.transAxes)


def page(server: str, run: str, start: float, end: float) -> Figure:
    """All panels, in lines of three, a subfigure a row of the dashboard."""
    grouped = rows(json.loads(DASHBOARD.read_text()))
    lines = [math.ceil(len(panels) / COLUMNS) for panels in grouped.values()]
    figure = plt.figure(figsize=(13, 2.7 * sum(lines)), layout="constrained")
    parts = figure.subfigures(len(grouped), height_ratios=lines)
    for part, (title, panels), height in zip(parts, grouped.items(), lines, strict=True):
        part.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
        grid = list(part.subplots(height, COLUMNS, squeeze=False).flat)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes, panel in zip(grid, panels, strict=False):
            found: list[Series] = []
            for target in panel["targets"]:
                found += series(server, run, target, start, end)
            draw(axes, panel, found)
    return figure


def main() -> None:
    summary, _, details = str(__doc__).partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("server")
    parser.add_argument("run")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("dashboard.png"))
    given = parser.parse_args()
    end = time.time()
    figure = page(given.server.rstrip("/"), given.run, end - 60 * given.minutes, end)
    figure.savefig(given.out, dpi=110)


if __name__ == "__main__":
    main()
