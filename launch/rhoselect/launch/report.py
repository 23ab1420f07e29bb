"""Runs side by side: a table, a PNG of accuracy against steps and seconds, a page per run."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from rhoselect.errors import RunFolderError
from rhoselect.importing import one_line
from rhoselect.trainer.records import read_evaluations, read_steps

BASELINE = "uniform"
TABLE_WIDTH = 110
HEADS = ["run", "method", "W", "best", "final", "steps", "seconds", "fewer steps", "noise", "IL s"]


@dataclass(frozen=True)
class Run:
    """A finished run: its summary and its evaluations as arrays [E]."""

    name: str
    summary: dict[str, Any]
    steps: np.ndarray[tuple[int], np.dtype[np.int64]]
    seconds: np.ndarray[tuple[int], np.dtype[np.float64]]
    accuracy: np.ndarray[tuple[int], np.dtype[np.float64]]
    corrupted_share: float | None

    @property
    def smooth(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Means [E] of three neighbouring evaluations (two at the ends)."""
        kernel = np.ones(3)
        total = np.convolve(self.accuracy, kernel)[1:-1]  # also of fewer than three
        counts = np.convolve(np.ones(len(self.accuracy)), kernel)[1:-1]
        return np.asarray(total / counts)

    def first(self, accuracy: float) -> int | None:
        """The first evaluation whose smoothed accuracy is at least ``accuracy``."""
        reached = np.flatnonzero(self.smooth >= accuracy)
        return int(reached[0]) if len(reached) else None


def load_run(path: Path) -> Run:
    """Read a finished run folder. Raises RunFolderError."""
    try:
        summary = json.loads((path / "summary.json").read_text())
    except FileNotFoundError:
        raise RunFolderError(
            f"run folder {path}: has no summary.json; allowed a finished run; finish it with"
            f" 'rhoctl train --resume --run-dir {path}'"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"run folder {path}: summary.json cannot be read: {error}") from None
    if not isinstance(summary, dict) or "method" not in summary:
        raise RunFolderError(
            f"run folder {path}: summary.json is not a run's; allowed a finished run"
        )
    try:
        evaluations = read_evaluations(path)
        shares = read_steps(path)["corrupted_share"].drop_null().to_numpy()
        return _run(path.name, summary, evaluations, shares)
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"run folder {path}: its evaluations or steps cannot be read: {one_line(error)}"
        ) from None


def _run(
    name: str, summary: dict[str, Any], evaluations: list[dict[str, Any]], shares: np.ndarray
) -> Run:
    return Run(
        name,
        summary,
        np.array([e["step"] for e in evaluations], np.int64),
        np.array([e["seconds"] for e in evaluations], np.float64),
        np.array([e["accuracy"] for e in evaluations], np.float64),
        float(shares.mean()) if len(shares) else None,
    )


def comparison(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row a run. The target is the first uniform run's best smoothed accuracy (else the first
    run's): where each run reaches it, in steps and in seconds, and how much sooner."""
    base = next((run for run in runs if run.summary["method"] == BASELINE), runs[0])
    target = float(base.smooth.max())
    goal = base.first(target)
    assert goal is not None, "a run reaches its own best"
    rows = []
    for run in runs:
        at = run.first(target)
        rows.append(
            {
                "run": run.name,
                "method": run.summary["method"],
                "workers": run.summary["workers"],
                "seed": run.summary["seed"],
                "steps": run.summary["steps"],
                "best_accuracy": run.summary["best_accuracy"],
                "final_accuracy": run.summary["final_accuracy"],
                "target_accuracy": round(target, 4),
                "steps_to_target": None if at is None else int(run.steps[at]),
                "seconds_to_target": None if at is None else float(run.seconds[at]),
                "step_speedup": None if at is None else float(base.steps[goal] / run.steps[at]),
                "corrupted_share": run.corrupted_share,
                "wall_seconds": run.summary["wall_seconds"],
                "il_seconds": run.summary["il_seconds"],
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The comparison for a terminal."""
    target = f"{rows[0]['target_accuracy']:.4f}"
    result = Table(title=f"Steps and seconds to accuracy {target} (mean of 3 evaluations)")
    for head in HEADS:
        result.add_column(head, justify="left" if head in ("run", "method") else "right")
    for row in rows:
        result.add_row(
            row["run"],
            row["method"],
            str(row["workers"]),
            f"{row['best_accuracy']:.4f}",
            f"{row['final_accuracy']:.4f}",
            _or_not(row["steps_to_target"], "{}"),
            _or_not(row["seconds_to_target"], "{:.1f}"),
            _or_not(row["step_speedup"], "{:.1f}x"),
            _or_not(row["corrupted_share"], "{:.1%}"),
            f"{row['il_seconds']:.0f}",
        )
    return result


def figure(runs: Sequence[Run]) -> bytes:
    """A PNG: smoothed test accuracy against optimizer steps and against seconds."""
    drawing = Figure(figsize=(10, 4), layout="constrained")
    by_step, by_second = drawing.subplots(1, 2, sharey=True)
    for run in runs:
        label = f"{run.summary['method']} ({run.summary['workers']} workers)"
        by_step.plot(run.steps, run.smooth, ".-", label=label)
        by_second.plot(run.seconds, run.smooth, ".-", label=label)
    by_step.set(xlabel="optimizer steps", ylabel="test accuracy (mean of 3 evaluations)")
    by_second.set(xlabel="seconds of training (IL model not counted)")
    low = min(float(np.median(run.accuracy)) for run in runs) - 0.05
    by_step.set_ylim(bottom=max(0.0, low))
    for axes in (by_step, by_second):
        axes.grid(alpha=0.3)
    by_step.legend(loc="lower right")
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def write_page(path: Path) -> None:
    """Write report.html into a finished run folder: its figure and its summary."""
    run = load_run(path)
    image = base64.b64encode(figure([run])).decode()
    rows = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(json.dumps(value))}</td></tr>"
        for key, value in run.summary.items()
    )
    page = (
        "<!doctype html><meta charset=utf-8>"
        f"<title>{html.escape(run.name)}</title>"
        "<style>body{font:15px sans-serif;max-width:60em;margin:2em auto}"
        "th{text-align:left;padding-right:2em;vertical-align:top}td{word-break:break-all}</style>"
        f"<h1>{html.escape(run.name)}</h1>"
        f'<img alt="accuracy" style="width:100%" src="data:image/png;base64,{image}">'
        f"<table>{rows}</table>"
    )
    (path / "report.html").write_text(page)


def _or_not(value: Any, pattern: str) -> str:
    return "not reached" if value is None else pattern.format(value)
