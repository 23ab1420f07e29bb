"""The results of a comparison: one table, one plot, a sentence of verdict for each case."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes

from rhoselect.comparison import reference
from rhoselect.comparison.results import SHARED_BY, Row
from rhoselect.report.drawing import panels_png
from rhoselect.report.metric import Metric
from rhoselect.report.origin import origin
from rhoselect.report.tables import markdown_table

PANELS_A_ROW = 3
NOTE = """
final: mean test figure of the final weights, and standard deviation over seeds. To best uniform:
paired difference, of an accuracy in points, and its standard error. The seconds, of one run, are in
three ledgers: scoring and irreducible losses free; charged on one device; charged on many, which is
a trainer and {scorers} scorers. x / y / z: irreducible losses shared by {shared} runs. *: the least
or greatest rate tried.
"""


def write(
    folder: Path,
    found: Sequence[Row],
    verdicts: Sequence[str],
    left_out: Sequence[str],
) -> None:
    """Write results.json, table.md and figure.png."""
    names = dict.fromkeys(row["configuration"] for row in found)
    machines = {name: reference.machine(folder, name) for name in names}
    numbers = {
        **origin(),
        "reference_machines": machines,
        "verdicts": list(verdicts),
        "left_out": list(left_out),
        "rows": list(found),
    }
    (folder / "results.json").write_text(json.dumps(numbers, indent=1) + "\n", "utf-8")
    (folder / "figure.png").write_bytes(figure(found))
    known = dict.fromkeys(f"{m['cpu']}, {m['cores']} cores" for m in machines.values())
    named = f"Reference machine: {'; '.join(known)}."
    shared = " / ".join(map(str, SHARED_BY))
    scorers = ", ".join(sorted({str(row["scorers"]) for row in found}))
    note = NOTE.format(scorers=scorers, shared=shared)
    lines = [*verdicts, "", markdown_table(*cells_of(found)), named, note, *left_out]
    (folder / "table.md").write_text("\n".join(lines) + "\n", "utf-8")


def cells_of(found: Sequence[Row]) -> tuple[Sequence[str], list[list[str]]]:
    """Heads and cells of the table as text."""
    labels = dict.fromkeys(Metric.of(row).label for row in found)
    heads = (
        *("configuration", "budget", "arm", "steps", "rate"),
        *(f"final {' or '.join(labels)}", "to best uniform"),
        *("s free", "s one device", "s many", "device-s many"),
    )
    return heads, [_cells(row) for row in found]


def _cells(row: Row) -> list[str]:
    rate = f"{row['lr']:.2g}{'*' if row['lr_at_edge'] else ''}"
    dropped = f", {row['dropped_share']:.0%} dropped" if row["dropped_share"] else ""
    itself = row["arm"] == row["against"]
    metric, form = Metric.of(row), ".2%" if Metric.of(row).is_share else ".4g"
    difference = metric.difference(row["difference"], "+")
    seconds = row["seconds"]
    return [
        *(row["configuration"], row["budget"], row["arm"] + dropped, str(row["steps"]), rate),
        f"{row['mean']:{form}} ± {row['deviation']:{form}}",
        "best" if itself else f"{difference} ± {metric.difference(row['error'])}",
        *(_shared(seconds[ledger]) for ledger in ("free", "one", "many")),
        _shared(row["device_seconds"]["many"]),
    ]


def _shared(by_runs: dict[str, float]) -> str:
    words = [f"{seconds:.3g}" for seconds in by_runs.values()]
    return words[0] if len(set(words)) == 1 else " / ".join(words)


def figure(found: Sequence[Row]) -> bytes:
    """A PNG: a panel a configuration and budget; a line an arm, with every seed as a dot."""
    cases = list(dict.fromkeys((row["configuration"], row["budget"]) for row in found))
    panels = [
        partial(panel, f"{name}, {budget}", [r for r in found if _case(r) == (name, budget)])
        for name, budget in cases
    ]
    return panels_png(panels, min(PANELS_A_ROW, len(panels)), (4.4, 3.0))


def _case(row: Row) -> tuple[str, str]:
    return row["configuration"], row["budget"]


def panel(title: str, found: Sequence[Row], axes: Axes) -> None:
    """The panel of a configuration at a budget, drawn."""
    places = range(len(found))
    for place, row in zip(places, found, strict=True):
        axes.plot(row["values"], [place] * len(row["values"]), "o", alpha=0.4, markersize=4)
    means, spread = [r["mean"] for r in found], [r["deviation"] for r in found]
    axes.errorbar(means, places, xerr=spread, fmt="|", color="black", capsize=3)
    axes.set_yticks(places, [row["arm"] for row in found], fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel=f"final test {Metric.of(found[0]).label}", title=title)
