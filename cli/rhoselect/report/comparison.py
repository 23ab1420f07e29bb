"""Runs compared: which reach the baseline's best figure, at what cost, and how much sooner."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from rich.table import Table

from rhoselect.report.arms import Arm, Spread, arms_of, spread
from rhoselect.report.metric import Metric
from rhoselect.report.runs import Run, mean
from rhoselect.report.tables import terminal_table
from rhoselect.selection import get_function
from rhoselect.trainer.own_loop import GIVEN_DATA

BASELINE = "uniform"
FEW_EVALUATIONS = 5
"""Steps to a target that is reached within fewer are known to a fifth of them, or less well."""
WIDTH = 110
HEADS = ["run", "method", "W", "best", "final", "steps", "fewer", "seconds", "with IL", "sooner"]
HEADS += ["noise"]
Row = dict[str, Any]


def comparison(runs: Sequence[Run]) -> list[Row]:
    """One row a run. The target is the best smoothed figure that each seed of the first uniform
    arm (else of the first arm) reaches: where a run reaches it, in steps, seconds, candidates and
    FLOPs, and how much sooner than the mean of that arm. Seconds and FLOPs are those of the run;
    ``prior_…`` those of its irreducible losses or proxy model; ``time_speedup`` counts both. None
    where the target is not reached."""
    arms = arms_of(runs)
    base, target = baseline(arms), _target(arms)
    names = {id(run): arm.name for arm in arms for run in arm.runs}
    rows = [_row(run, names[id(run)], target) for run in runs]
    own = [row for row in rows if row["arm"] == base.name]
    steps = spread([row["steps_to_target"] for row in own]).mean
    seconds = spread([_total_seconds(row) for row in own]).mean
    assert steps is not None and seconds is not None, "an arm reaches its own best"
    for row in rows:
        reached = row["steps_to_target"]
        row["step_speedup"] = None if reached is None else steps / reached
        total = _total_seconds(row)
        row["time_speedup"] = None if total is None else seconds / max(total, 1e-9)
    return rows


def baseline(arms: Sequence[Arm]) -> Arm:
    """The first arm that selects uniformly, else the first."""
    return next((arm for arm in arms if arm.first.summary["method"] == BASELINE), arms[0])


def _target(arms: Sequence[Arm]) -> float:
    runs = baseline(arms).runs
    return runs[0].metric.worst([run.best for run in runs])


def coarse(arms: Sequence[Arm]) -> list[str]:
    """The arms that reach the target within few evaluations, so that their steps and seconds to it
    are coarse: a line each. None of one arm, which is compared with nothing."""
    target, lines = _target(arms), []
    for arm in arms if len(arms) > 1 else ():
        reached = [(at, run) for run in arm.runs if (at := run.first(target)) is not None]
        at, run = min(reached, key=lambda each: each[0], default=(FEW_EVALUATIONS, arm.first))
        if at < FEW_EVALUATIONS - 1:
            before = int(run.steps[at - 1]) if at else 0
            lines.append(
                f"{arm.name}: reaches the target at evaluation {at + 1}, between steps {before} and"
                f" {int(run.steps[at])}; evaluate more often (trainer.eval_every) to know it better"
            )
    return lines


def uncounted(arms: Sequence[Arm]) -> list[str]:
    """The arms with seconds before the run that ``time_speedup`` cannot count, a line each."""
    return [
        f"{arm.name}: its irreducible losses were given by its loop; the seconds to make them are"
        " not known and not counted"
        for arm in arms
        if any(_given_losses(run) for run in arm.runs)
    ]


def _given_losses(run: Run) -> bool:
    """Whether a loop gave irreducible losses as numbers: a table tells its seconds."""
    given = run.settings.get("data.dataset") == json.dumps(GIVEN_DATA)
    if not given or "il.table" in run.settings or run.summary["il_seconds"]:
        return False
    try:
        return get_function(run.summary["method"]).needs.il
    except ValueError:  # a function of the loop's own that is not here
        return False


def _row(run: Run, arm: str, target: float) -> Row:
    at, metric = run.first(target), run.metric.name
    return {
        "run": run.name,
        "arm": arm,
        "method": run.summary["method"],
        "workers": run.summary["workers"],
        "seed": run.summary["seed"],
        "steps": run.summary["steps"],
        "metric": metric,
        f"best_{metric}": run.summary[f"best_{metric}"],
        f"final_{metric}": run.summary[f"final_{metric}"],
        "worst_class_accuracy": mean(run.worst_class_accuracy[-1:]),
        f"target_{metric}": round(target, 4),
        "steps_to_target": None if at is None else int(run.steps[at]),
        "seconds_to_target": None if at is None else float(run.seconds[at]),
        "candidates_to_target": None if at is None else int(run.candidates[at]),
        "flops_to_target": None if at is None else float(run.flops[at]),
        "corrupted_share": run.corrupted_share,
        "wall_seconds": run.summary["wall_seconds"],
        "il_seconds": run.summary["il_seconds"],
        "prior_seconds": run.prior_seconds,
        "prior_flops": run.prior_flops,
    }


def _total_seconds(row: Row) -> float | None:
    """Seconds to the target with those before the run."""
    reached: float | None = row["seconds_to_target"]
    return None if reached is None else reached + float(row["prior_seconds"])


def table(rows: Sequence[Row]) -> Table:
    """The comparison for a terminal, a row an arm."""
    metric = Metric(rows[0]["metric"])
    target = f"{rows[0][f'target_{metric.name}']:.4f}"
    title = f"Steps and seconds to {metric.label} {target} (mean of 3 evaluations)"
    ordered = sorted(rows, key=lambda row: [r["arm"] for r in rows].index(row["arm"]))
    arms = [list(group) for _, group in groupby(ordered, key=lambda row: str(row["arm"]))]
    return terminal_table(title, HEADS, map(_cells, arms), compact=True)


def _cells(rows: Sequence[Row]) -> list[str]:
    """Means over the seeds of an arm and, below, standard deviations."""

    def figure(key: str, pattern: str, none: str = "never") -> str:
        return _lines(spread([row[key] for row in rows]), pattern.format, none)

    total, metric = spread([_total_seconds(row) for row in rows]), rows[0]["metric"]
    return [
        rows[0]["arm"],
        rows[0]["method"],
        ", ".join(sorted({str(row["workers"]) for row in rows})),
        figure(f"best_{metric}", "{:.4f}"),
        figure(f"final_{metric}", "{:.4f}"),
        figure("steps_to_target", "{:.0f}"),
        figure("step_speedup", "{:.1f}x"),
        figure("seconds_to_target", "{:.1f}"),
        _lines(total, "{:.1f}".format, "never"),
        figure("time_speedup", "{:.1f}x"),
        figure("corrupted_share", "{:.1%}", "not known"),
    ]


def _lines(figure: Spread, show: Callable[[float], str], none: str) -> str:
    return figure.text(show, none).replace(" ± ", "\n±").replace(" seeds", "")
