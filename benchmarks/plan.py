"""How well `rhoctl plan` predicts a step: its expectation against the median step of real runs.

Two models: the emulated device of benchmarks/scaling.py, with training steps of 100 ms, and a real
ResNet-18 of width 16 in float32, whose processes share this machine's cores. In each round a model
is planned once, then trained with 0, 1, 2 and 4 workers.

    python benchmarks/plan.py --json docs/results/plan.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.progress import track

import arguments
import scaling
from harness import HERE, Settings, show, synthetic_data, train, write

COLUMNS = ("model", "workers", "predicted_ms", "measured_ms", "error")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["emulated mlp", "resnet18_small"])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--steps", type=int, default=40, help="counted steps of a run")
    parser.add_argument("--rounds", type=int, default=3, help="machines are not always as fast")
    options = arguments.parse(parser, models=["emulated mlp"], workers=[0], steps=3, rounds=1)
    rows, parts = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        data, table = synthetic_data(Path(scratch))
        for model in options.models:
            settings = settings_of(model, data, table, options.steps)
            run = Path(scratch) / model.replace(" ", "-")
            # Makes the configuration file that the plan reads, and warms the page cache.
            train(run, settings, 0)
            found: dict[int, list[tuple[float, float]]] = {w: [] for w in options.workers}
            for number in track(range(options.rounds), model):
                planned = plan(run.with_suffix(".toml"))
                parts[model] = planned["parts"]
                for workers in options.workers:
                    case = run.with_name(f"{run.name}-{number}-{workers}")
                    train(case, settings, workers)
                    found[workers].append(predicted_and_measured(workers, planned, case))
            rows += [row_of(model, workers, pairs) for workers, pairs in found.items()]
    show("predicted and measured steps", rows, COLUMNS)
    write(options.json, {"rows": rows, "parts": parts})


def settings_of(model: str, data: Path, table: Path, steps: int) -> Settings:
    """The configuration of a run of ``model``."""
    settings = scaling.settings_of(data, table, 100.0, steps)
    if model == "resnet18_small":
        settings |= {"model.factory": "rhoselect.models:resnet18_small"}
        settings |= {"model.args": {"width": 16}, "selection.chunk": 40}
    return settings


def plan(config: Path, *options: str) -> dict[str, Any]:
    """What `rhoctl plan` says, in a fresh process."""
    command = [sys.executable, "-m", "rhoselect.cli", "plan", str(config), "--json", *options]
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def predicted_and_measured(workers: int, planned: dict[str, Any], run: Path) -> tuple[float, float]:
    """Milliseconds of a step: the plan's, and the run's median after the warm-up."""
    [predicted_ms] = [r["step_ms"] for r in planned["rows"] if r["workers"] == workers]
    steps = pq.read_table(run / "steps.parquet")["step_ms"].to_pylist()
    return predicted_ms, statistics.median(steps[scaling.WARM_UP :])


def row_of(model: str, workers: int, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians over the rounds; ``error`` is that of the prediction, as a share."""
    return {
        "model": model,
        "workers": workers,
        "predicted_ms": statistics.median(predicted for predicted, _ in pairs),
        "measured_ms": statistics.median(measured for _, measured in pairs),
        "error": statistics.median(predicted / measured - 1 for predicted, measured in pairs),
        "errors": [predicted / measured - 1 for predicted, measured in pairs],
    }


if __name__ == "__main__":
    main()
