"""How a step's time goes down with scoring workers, on an emulated device.

Everything but the device is real: Ray actors, a Redis-protocol server, shared memory, the trainer's
and the scorers' loops, an MLP's arithmetic on this machine's cores (in float32; the emulated device
scores at 0.26 of its float32 time, as bf16 does). The bound is the training step plus the chunks
that the busiest scoring process has to score, one after the other, at the declared time; at lag 0
the trainer is a scoring process, too. ``kept_fraction`` is the time of a uniform step over that of
a RHO-LOSS step. Rows of lag 1 have the bound of lag 0, which lag 1 may beat.

    python benchmarks/scaling.py --json docs/results/scaling.json
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.progress import track

import arguments
from harness import show, synthetic_data, train, write

N_B, N_BIG, CHUNK, FACTOR = 32, 320, 20, 0.26
WARM_UP = 10  # steps at the start that are not counted, and those in which scorers start:
START_S = 2.5  # until the next actor works, on two cores
MODES: dict[str, dict[str, Any]] = {
    "lag 0": {},
    "lag 1": {"selection.lag": 1, "selection.rescore": "scorers"},
}
COLUMNS = ("workers", "train_ms", "mode", "step_ms", "bound_ms", "ratio", "kept_fraction")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4, 8, 16])
    parser.add_argument("--train-ms", type=float, nargs="+", default=[100.0, 400.0])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--device", default="cpu", help="that does the MLP's arithmetic")
    parser.add_argument("--steps", type=int, default=60, help="counted steps of a run")
    options = arguments.parse(parser, workers=[0], train_ms=[5.0], modes=["lag 0"], steps=3)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data, table = synthetic_data(folder)
        uniform = {}
        for train_ms in options.train_ms:
            settings = settings_of(data, table, train_ms, options.steps, options.device)
            # In its best form: one chunk a window, as there is nothing to share out.
            settings |= {"selection.function": "uniform", "selection.chunk": N_BIG}
            run = folder / f"uniform-{train_ms:g}"
            train(run, settings, 0)
            uniform[train_ms] = parts_of(run, options.steps)["step_ms"]
        cases = [
            (train_ms, workers, mode)
            for train_ms in options.train_ms
            for workers in options.workers
            for mode in options.modes
        ]
        for train_ms, workers, mode in track(cases, "runs"):
            run = folder / f"{train_ms:g}-{workers}-{mode.replace(' ', '')}"
            steps = options.steps + round(workers * START_S / (1e-3 * train_ms))
            settings = settings_of(data, table, train_ms, steps, options.device)
            settings |= MODES[mode]
            train(run, settings, workers)
            case = row_of(run, train_ms, workers, uniform[train_ms], options.steps)
            rows.append({"mode": mode, **case})
    show("emulated device", rows, [*COLUMNS, "overhead_ms"])
    write(options.json, {"emulated": True, "n_b": N_B, "n_B": N_BIG, "chunk": CHUNK, "rows": rows})


def settings_of(
    data: Path, table: Path, train_ms: float, steps: int, device: str = "cpu"
) -> dict[str, Any]:
    """The configuration of a run on the emulated device."""
    point_ms = train_ms / 3 / N_B
    args = {"width": 128, "depth": 2, "point_ms": point_ms, "precision_factor": FACTOR}
    return {
        "data.path": str(data),
        "il.table": str(table),
        "model.factory": "emulated:mlp",
        "model.args": args,
        "selection.n_b": N_B,
        "selection.n_B": N_BIG,
        "selection.chunk": CHUNK,
        "scorer.precision": "fp32",
        "scorer.device": device,
        "trainer.device": device,
        "trainer.steps": steps + WARM_UP,
        "trainer.eval_every": 1_000_000,
        "trainer.checkpoint_every": 1_000_000,
        "metrics.port": -1,
    }


def row_of(
    run: Path, train_ms: float, workers: int, uniform_ms: float, counted: int
) -> dict[str, Any]:
    """The figures of the last ``counted`` steps of a run."""
    chunk_ms = CHUNK * train_ms / 3 / N_B * FACTOR
    each = math.ceil(N_BIG // CHUNK / (workers + 1))
    bound_ms, parts = train_ms + each * chunk_ms, parts_of(run, counted)
    train, publish = (1e3 * parts[f"{name}_s"] for name in ("train", "publish"))
    overhead = {
        "train": train - train_ms,
        "publish": publish,
        "wait": parts["wait_ms"] - each * chunk_ms,
        "rest": parts["step_ms"] - train - publish - parts["wait_ms"],
    }
    return {
        "workers": workers,
        "train_ms": train_ms,
        "step_ms": parts["step_ms"],
        "bound_ms": bound_ms,
        "ratio": parts["step_ms"] / bound_ms,
        "kept_fraction": uniform_ms / parts["step_ms"],
        "uniform_ms": uniform_ms,
        "overhead_ms": {
            "all": parts["step_ms"] - bound_ms,
            **{name: round(ms, 3) for name, ms in overhead.items()},
        },
    }


def parts_of(run: Path, counted: int) -> dict[str, float]:
    """Milliseconds a step and of waiting in it: medians over the last ``counted``. Seconds a
    step of training and publishing: means over the run."""
    steps = pq.read_table(run / "steps.parquet")
    medians = {
        name: statistics.median(steps[name].to_pylist()[-counted:])
        for name in ("step_ms", "wait_ms")
    }
    summary = json.loads((run / "summary.json").read_text())
    busy = summary["busy_seconds"]
    means = {f"{name}_s": busy.get(name, 0) / len(steps) for name in ("train", "publish")}
    return medians | means


if __name__ == "__main__":
    main()
