"""What stale weights cost, and what the second stage gives back.

Runs the demo's configuration (make train makes its data) for uniform selection and for RHO-LOSS
scored with weights 0, 1 and 4 steps old, with and without the second stage (a shortlist of 5 n_b at
temperature 1, re-scored afresh), each with several seeds, in one process each (--workers 0: the
number of workers changes nothing). Prints the steps to two accuracies, medians over the seeds.

    python benchmarks/staleness.py --json docs/results/staleness.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

TARGETS = (0.85, 0.86)
ARMS = {
    "uniform": ["selection.function=uniform"],
    "lag 0 (Algorithm 1)": ["selection.lag=0"],
    "lag 1, top n_b": ["selection.lag=1", "selection.shortlist=1"],
    "lag 1, shortlist 5 n_b": ["selection.lag=1", "selection.shortlist=5"],
    "lag 4, top n_b": ["selection.lag=4", "selection.shortlist=1"],
    "lag 4, shortlist 5 n_b": ["selection.lag=4", "selection.shortlist=5"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("examples/fashion-mnist.toml"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    # Seeds in the outer loop: the arms of a seed run side by side in time.
    jobs = [(seed, arm) for seed in options.seeds for arm in ARMS]
    summaries: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for seed, arm in track(jobs, "runs"):
        summaries[arm].append(run(options.config, options.steps, seed, ARMS[arm]))
    rows = [row(arm, summaries[arm]) for arm in ARMS]
    show(rows)
    if options.json is not None:
        described = {
            "command": shlex.join(["python", *sys.argv]),
            "steps": options.steps,
            "seeds": options.seeds,
            "machine": {
                "cpu": cpu_name(),
                "cores": os.cpu_count(),
                "python": platform.python_version(),
                "torch": torch.__version__,
            },
            "rows": rows,
        }
        options.json.write_text(json.dumps(described, indent=2) + "\n")


def run(config: Path, steps: int, seed: int, sets: list[str]) -> dict[str, Any]:
    """One run in a fresh process; its summary."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        values = [f"trainer.steps={steps}", f"seed={seed}", "metrics.port=-1", *sets]
        flags = [word for value in values for word in ("--set", value)]
        command = ["train", str(config), "--run-dir", str(folder), *flags]
        subprocess.run(
            [sys.executable, "-m", "rhoselect.launch.cli", *command],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
        return summary


def row(arm: str, summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """An arm's figures over its seeds: every seed's, and medians (None: not reached)."""
    result: dict[str, Any] = {"arm": arm}
    for target in TARGETS:
        steps = [s["steps_to"][str(target)] for s in summaries]
        result[f"steps_to_{target}"] = median(steps)
        result[f"steps_to_{target}_by_seed"] = steps
    best = [s["best_accuracy"] for s in summaries]
    result["best_accuracy"] = statistics.median(best)
    result["best_accuracy_by_seed"] = best
    result["wall_seconds"] = statistics.median(s["wall_seconds"] for s in summaries)
    return result


def median(steps: list[int | None]) -> int | None:
    """The median where "not reached" counts as later than any step."""
    middle = statistics.median_high([float("inf") if s is None else s for s in steps])
    return None if middle == float("inf") else int(middle)


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title="Steps to a test accuracy (median over seeds)")
    for head in ("weights and stages", *map(str, TARGETS), "best accuracy"):
        table.add_column(head)
    for each in rows:
        reached = [each[f"steps_to_{t}"] for t in TARGETS]
        cells = ["not reached" if r is None else str(r) for r in reached]
        table.add_row(each["arm"], *cells, f"{each['best_accuracy']:.4f}")
    Console().print(table)


def cpu_name() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
