"""The results of an experiment (table, numbers, figure), and the page that compares those of all
experiments with the paper's figures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rhoselect.errors import RunFolderError
from rhoselect.grids import figure, outcomes, table
from rhoselect.grids.grid import Cell, load, names
from rhoselect.grids.recipes import Recipes
from rhoselect.grids.spec import Spec
from rhoselect.report.origin import origin

RESULTS, FIGURE, TABLE = "results.json", "figure.png", "table.md"
HEAD = """# The paper's tables and figures, measured

Written by `rhoctl experiment report`; the settings, the paper's figures and the reasons stand in
`benchmarks/paper/*.toml`. All are proxies on small data: orders and ratios are to be compared, not
accuracies. Figures are medians over the seeds (least to greatest); NR: not reached; "times fewer"
are steps to the baseline's best accuracy of the same seed, 0 where that was not reached. "Source"
says where the paper's setting and figures were read; "second hand" are notes of readers of the
paper, which we could not get. Numbers of figures in titles may be wrong, but for 1 to 3 and 6.
"""


def write(spec: Spec, grid: Sequence[Cell], recipes: Recipes, folder: Path) -> list[table.Row]:
    """Write results.json, figure.png and table.md of the finished grid in ``folder``; returns the
    table's rows."""
    found = [outcomes.load(c, folder / "runs" / c.name, recipes.data(c)) for c in grid]
    rows, lines = table.rows(spec, found), figure.curves(spec, found)
    numbers = {**origin(), "title": spec.title, "rows": rows, "curves": lines}
    (folder / RESULTS).write_text(json.dumps(numbers, indent=1) + "\n", "utf-8")
    (folder / FIGURE).write_bytes(figure.figure(spec, rows, lines))
    (folder / TABLE).write_text(table.markdown(rows), "utf-8")
    return rows


def page(specs: Path, runs: Path, out: Path) -> int:
    """Write ``out`` from the results under ``runs``, and figures and numbers into the folder beside
    it of the same name; returns how many experiments have results. Raises RunFolderError for none.
    """
    sections, count = [HEAD], 0
    beside = out.with_suffix("")
    for name in names(specs):
        spec, folder = load(specs / f"{name}.toml"), runs / name
        results = None
        if (folder / RESULTS).is_file():
            results = json.loads((folder / RESULTS).read_text("utf-8"))
            beside.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / FIGURE, beside / f"{name}.png")
            shutil.copy(folder / RESULTS, beside / f"{name}.json")
            count += 1
        sections.append(section(name, spec, results, f"{beside.name}/{name}.png"))
    if not count:
        raise RunFolderError(
            f"experiment folder {runs}: has no {RESULTS}; allowed the --out of 'rhoctl experiment"
            " run'"
        )
    out.write_text("\n".join(sections), "utf-8")
    return count


def section(name: str, spec: Spec, results: dict[str, Any] | None, image: str) -> str:
    """The part of the page on one experiment."""
    rows = results["rows"] if results else []
    lines = [f"## {spec.title}\n", f"Paper: {spec.paper.shows} {spec.paper.setting}\n"]
    lines.append(f"Source: {spec.paper.source}.\n")
    lines.append(f"Here: `rhoctl experiment run {name}`. {spec.shortened}\n")
    if results:
        lines += [table.markdown(rows), f"![{spec.title}]({image})\n"]
    else:
        lines.append("Not run yet.\n")
    if spec.paper.rows:
        lines.append("| published figure | value |\n| --- | --- |")
        lines += [f"| {row.what} | {row.value} |" for row in spec.paper.rows]
        lines.append("")
    if spec.claim:
        lines.append("| claim | bound | measured | |\n| --- | --- | --- | --- |")
    for claim in spec.claim:
        value, word = table.verdict(claim, rows)
        at_least = claim.at_least is not None
        bound = f">= {claim.at_least:g}" if at_least else f"<= {claim.at_most:g}"
        shown = "-" if value is None else f"{value:.3g}"
        why = f": {claim.why}" if claim.why and word == "disagrees" else ""
        lines.append(f"| {claim.text} | {bound} | {shown} | {word}{why} |")
    return "\n".join(lines) + "\n"
