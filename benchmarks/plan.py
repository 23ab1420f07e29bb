"""How well `rhoctl plan` predicts a step: its expectation against the median step of real runs.

Two models: the emulated device of benchmarks/scaling.py, with training steps of 100 ms, and a real
ResNet-18 of width 16 in float32, whose processes share this machine's cores. Each is planned once,
then trained with 0, 1, 2 and 4 workers.

    python benchmarks/plan.py --json docs/results/plan.json
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.progress import track

import scaling
from harness import HERE, Settings, show, synthetic_data, train, write

COLUMNS = ("model", "workers", "predicted_ms", "measured_ms", "error")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["emulated mlp", "resnet18_small"])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--steps", type=int, default=40, help="counted steps of a run")
    parser.add_argument("--lock", type=Path, help="hold this file's lock while something is timed")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    rows, parts = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        data, table = synthetic_data(Path(scratch))
        for model in options.models:
            settings = settings_of(model, data, table, options.steps)
            run = Path(scratch) / model.replace(" ", "-")
            # Makes the configuration file that the plan reads, and warms the page cache.
            train(run, settings, 0)
            with locked(options.lock):
                found = plan(run.with_suffix(".toml"))
            parts[model] = found["parts"]
            for workers in track(options.workers, model):
                case = run.with_name(f"{run.name}-{workers}")
                with locked(options.lock):
                    train(case, settings, workers)
                rows.append(row_of(model, workers, found, case))
    show("predicted and measured steps", rows, COLUMNS)
    write(options.json, {"rows": rows, "parts": parts})


def settings_of(model: str, data: Path, table: Path, steps: int) -> Settings:
    """The configuration of a run of ``model``."""
    settings = scaling.settings_of(data, table, 100.0, steps)
    if model == "resnet18_small":
        settings |= {"model.factory": "rhoselect.models:resnet18_small"}
        settings |= {"model.args": {"width": 16}, "selection.chunk": 40}
    return settings


def plan(config: Path) -> dict[str, Any]:
    """What `rhoctl plan` says, in a fresh process."""
    command = [sys.executable, "-m", "rhoselect.launch.cli", "plan", str(config), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def row_of(model: str, workers: int, found: dict[str, Any], run: Path) -> dict[str, Any]:
    """The prediction against the median step after the warm-up; ``error`` is its share."""
    [predicted_ms] = [r["step_ms"] for r in found["rows"] if r["workers"] == workers]
    steps = pq.read_table(run / "steps.parquet")["step_ms"].to_pylist()
    measured_ms = statistics.median(steps[scaling.WARM_UP :])
    return {
        "model": model,
        "workers": workers,
        "predicted_ms": predicted_ms,
        "measured_ms": measured_ms,
        "error": predicted_ms / measured_ms - 1,
    }


@contextmanager
def locked(path: Path | None) -> Iterator[None]:
    """Nobody else who locks ``path`` runs meanwhile."""
    if path is None:
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    main()
