"""The table of an experiment: a row a group and arm, medians and spread over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from rhoselect.grids.outcomes import Outcome
from rhoselect.grids.spec import Claim, Spec
from rhoselect.report.metric import Metric
from rhoselect.report.runs import mean
from rhoselect.report.tables import markdown_table, terminal_table

Row = dict[str, Any]
SHARES = {
    "worst_class_accuracy": "worst class",
    "corrupted_share": "corrupted",
    "correct_share_below": "correct",
    "relevant_share": "relevant",
    "repeat_share": "repeats",
}


def rows(spec: Spec, outcomes: Sequence[Outcome]) -> list[Row]:
    """A row a group and arm that ran. Its ``metric`` and ``metric_direction`` are the main figure
    of its task, which it also has by name, as ``final_NAME``. Every figure is {median, low, high,
    values}: None is "not reached" in ``targets`` and ``steps_to_best``, and "not known" elsewhere;
    a speedup is 0 where the baseline's best figure was not reached, and absent without a baseline
    run."""
    found = []
    for group in spec.group:
        here = [o for o in outcomes if o.cell.group.name == group.name]
        for arm in spec.arm:
            runs = [o for o in here if o.cell.arm.name == arm.name]
            if runs:
                found.append(_row(spec, group.targets, runs, here))
    return found


def _row(
    spec: Spec, targets: Sequence[float], runs: Sequence[Outcome], here: Sequence[Outcome]
) -> Row:
    figures: dict[str, list[float | None]] = {}
    metric = runs[0].run.metric
    for outcome in runs:
        peers = [o for o in here if o.cell.seed == outcome.cell.seed]
        base = next((o for o in peers if o.cell.arm.name == spec.baseline), None)
        values: dict[str, float | None] = {
            **_named(metric, outcome.run.best, outcome.run.final),
            "drop": abs(outcome.run.best - outcome.run.final),
            "worst_class_accuracy": mean(outcome.run.worst_class_accuracy[-1:]),
            "seconds": outcome.run.summary["wall_seconds"],
            **outcome.properties(metric.worst([o.run.final for o in peers])),
        }
        if base is not None:
            best = base.run.best
            steps = outcome.steps_to(best)
            values |= {"steps_to_best": steps, "speedup": base.steps_to(best) / steps}
        for name, value in values.items():
            figures.setdefault(name, []).append(value)
    reached = {f"{t:g}": statistic([o.steps_to(t) for o in runs]) for t in targets}
    first = runs[0].cell
    return {
        "group": first.group.name,
        "arm": first.arm.name,
        "seeds": [o.cell.seed for o in runs],
        "metric": metric.name,
        "metric_direction": metric.direction,
        "targets": reached,
        **{name: statistic(values) for name, values in figures.items()},
    }


def _named(metric: Metric, best: float, final: float) -> dict[str, float]:
    """The two figures as a summary has them: as those of the metric, and by its name."""
    return {
        f"{when}_{name}": value
        for name in ("metric", metric.name)
        for when, value in (("best", best), ("final", final))
    }


def statistic(values: Sequence[float | None]) -> Row | None:
    """Median, least and greatest; infinite ones (not reached) become None. None if any is None."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return None
    summary = {"median": statistics.median(known), "low": min(known), "high": max(known)}
    finite = {name: v if math.isfinite(v) else None for name, v in summary.items()}
    return finite | {"values": [v if math.isfinite(v) else None for v in known]}


def verdict(claim: Claim, found: Sequence[Row]) -> tuple[float | None, str]:
    """The measured median (or ratio) of a claim, and "agrees", "disagrees" or "not measured"."""
    value = _median(found, claim.group, claim.arm, claim.measure)
    if claim.of is not None:
        other = _median(found, claim.group, claim.of, claim.measure)
        value = None if value is None or not other else value / other
    if value is None:
        return None, "not measured"
    low = float("-inf") if claim.at_least is None else claim.at_least
    high = float("inf") if claim.at_most is None else claim.at_most
    holds = low <= value <= high
    return value, "agrees" if holds else "disagrees"


def _median(found: Sequence[Row], group: str, arm: str, measure: str) -> float | None:
    row = next((r for r in found if (r["group"], r["arm"]) == (group, arm)), None)
    figure = row.get(measure) if row else None
    return figure["median"] if figure else None


def cells_of(found: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of the table as text; "NR" is not reached."""
    targets = sorted({t for row in found for t in row["targets"]}, key=float)
    shares = [name for name in SHARES if any(row.get(name) for row in found)]
    labels = dict.fromkeys(Metric.of(row).label for row in found)
    heads = ["group", "arm", *(f"steps to {t}" for t in targets), "steps to baseline's best"]
    heads += ["times fewer", f"final {' or '.join(labels)}", *(SHARES[name] for name in shares)]
    lines = []
    for row in found:
        line = [row["group"], row["arm"]]
        line += [
            _steps(row["targets"][t], row["seeds"]) if t in row["targets"] else "" for t in targets
        ]
        line += [_steps(row.get("steps_to_best"), row["seeds"]), _spread(row.get("speedup"), ".1f")]
        metric = Metric.of(row)
        form = ".1%" if metric.is_share else ".4g"
        line.append(_spread(row[f"final_{metric.name}"], form))
        lines.append(line + [_spread(row.get(name), ".1%") for name in shares])
    return heads, lines


def table(title: str, found: Sequence[Row]) -> Table:
    """The table for a terminal."""
    return terminal_table(title, *cells_of(found))


def markdown(found: Sequence[Row]) -> str:
    """The table in Markdown."""
    return markdown_table(*cells_of(found))


def _steps(figure: Row | None, seeds: Sequence[int]) -> str:
    if figure is None:
        return "-"
    reached = [value for value in figure["values"] if value is not None]
    if figure["median"] is None:
        return "NR" if not reached else f"NR ({len(reached)} of {len(seeds)})"
    high = "NR" if figure["high"] is None else f"{figure['high']:.0f}"
    spread = f" ({figure['low']:.0f} to {high})" if len(seeds) > 1 else ""
    return f"{figure['median']:.0f}{spread}"


def _spread(figure: Row | None, pattern: str) -> str:
    if figure is None:
        return "-"
    median, low, high = (format(figure[name], pattern) for name in ("median", "low", "high"))
    return median if low == high else f"{median} ({low} to {high})"
