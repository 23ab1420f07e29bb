"""Runs compared: which reach the baseline's best accuracy, at what cost, and how much sooner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from rhoselect.report.runs import Run
from rhoselect.report.tables import terminal_table

BASELINE = "uniform"
WIDTH = 110
HEADS = ["run", "method", "W", "best", "final", "steps", "seconds", "fewer steps", "noise", "IL s"]
Row = dict[str, Any]


def comparison(runs: Sequence[Run]) -> list[Row]:
    """One row a run. The target is the first uniform run's best smoothed accuracy (else the first
    run's): where each run reaches it, in steps, seconds, candidates and FLOPs, and how much sooner
    in steps. Seconds and FLOPs are those of the run; ``prior_…`` those of its irreducible losses or
    proxy model. None where the target is not reached."""
    base = next((run for run in runs if run.summary["method"] == BASELINE), runs[0])
    target = float(base.smooth.max())
    goal = base.first(target)
    assert goal is not None, "a run reaches its own best"
    return [_row(run, target, int(base.steps[goal])) for run in runs]


def _row(run: Run, target: float, base_steps: int) -> Row:
    at = run.first(target)
    return {
        "run": run.name,
        "method": run.summary["method"],
        "workers": run.summary["workers"],
        "seed": run.summary["seed"],
        "steps": run.summary["steps"],
        "best_accuracy": run.summary["best_accuracy"],
        "final_accuracy": run.summary["final_accuracy"],
        "worst_class_accuracy": float(run.worst_class_accuracy[-1]),
        "target_accuracy": round(target, 4),
        "steps_to_target": None if at is None else int(run.steps[at]),
        "seconds_to_target": None if at is None else float(run.seconds[at]),
        "candidates_to_target": None if at is None else int(run.candidates[at]),
        "flops_to_target": None if at is None else float(run.flops[at]),
        "step_speedup": None if at is None else base_steps / int(run.steps[at]),
        "corrupted_share": run.corrupted_share,
        "wall_seconds": run.summary["wall_seconds"],
        "il_seconds": run.summary["il_seconds"],
        "prior_seconds": run.prior_seconds,
        "prior_flops": run.prior_flops,
    }


def table(rows: Sequence[Row]) -> Table:
    """The comparison for a terminal."""
    target = f"{rows[0]['target_accuracy']:.4f}"
    title = f"Steps and seconds to accuracy {target} (mean of 3 evaluations)"
    return terminal_table(title, HEADS, map(_cells, rows))


def _cells(row: Row) -> list[str]:
    return [
        row["run"],
        row["method"],
        str(row["workers"]),
        f"{row['best_accuracy']:.4f}",
        f"{row['final_accuracy']:.4f}",
        shown(row["steps_to_target"], "{}"),
        shown(row["seconds_to_target"], "{:.1f}"),
        shown(row["step_speedup"], "{:.1f}x"),
        shown(row["corrupted_share"], "{:.1%}", "not known"),
        f"{row['il_seconds']:.0f}",
    ]


def shown(value: float | None, pattern: str, otherwise: str = "not reached") -> str:
    """A figure by ``pattern``, or ``otherwise`` where there is none."""
    return otherwise if value is None else pattern.format(value)
