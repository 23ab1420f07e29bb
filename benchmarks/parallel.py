"""Several devices that train: their sums, the steps of every layout, and seconds to accuracy.

sums      Two real ranks: the tree reduction against gloo's all-reduce of the same bytes.
steps     Emulated devices, of which each needs --share-ms for its part of a step if all train:
          steps of all layouts (all do both; k train, the others score; k do both beside others
          that score; uniform) against the declared times and the reduction timed alone with as
          many ranks. `rhoctl plan` predicts them; ``chosen`` is what it calls best, ``behind`` the
          distance to the best measured one.
accuracy  17 emulated devices and their declared times, real learning, decayed rates: seconds until
          RHO-LOSS has the accuracy of uniform selection, each in its best layout (equal.py).

    python benchmarks/parallel.py --part sums --json docs/results/parallel_sums.json
    python benchmarks/parallel.py --part steps --json docs/results/parallel_steps.json
    python benchmarks/parallel.py --part accuracy --json docs/results/parallel_accuracy.json
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.progress import track

import arguments
import equal
import sums
from harness import show, synthetic_data, train, write, write_config
from plan import plan

Row = dict[str, Any]
FACTOR, MICRO, RATIO, WARM_UP = 0.26, 4, 10, 3
MODEL = {"width": 128, "depth": 2}
NUMBERS = 784 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10  # that this MLP learns
LAYOUTS = ("colocated", "split", "beside", "uniform")
SUMS = ("megabytes", "tree_ms", "gloo_ms", "ratio")
STEPS = (
    *("layout", "step_ms", "bound_ms", "ratio", "train_ms", "score_ms", "sum_ms"),
    *("predicted_ms", "error", "behind", "chosen"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="[default: all]")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1.0, 4.0, 16.0, 64.0])
    parser.add_argument("--turns", type=int, default=40, help="of sums")
    parser.add_argument("--devices", type=int, default=16, help="of steps: a power of two")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    parser.add_argument("--share-ms", type=float, default=400.0)
    parser.add_argument("--seconds", type=float, default=15.0, help="of a layout's counted steps")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.1, 0.4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--budgets", type=float, nargs="+", default=[10.0, 20.0, 40.0], help="s")
    small = {"megabytes": [0.1], "turns": 3, "devices": 2, "share_ms": 20.0, "seconds": 0.2}
    small |= {"noise": [0.1], "seeds": [0], "budgets": [2.0, 4.0]}
    options = arguments.parse(parser, **small)
    rows: list[Row] = []
    for part in (options.part,) if options.part else PARTS:
        columns, measure = PARTS[part]
        found = measure(options)
        show(part, found, columns)
        rows += [{"part": part, **row} for row in found]
    write(options.json, {"emulated": options.part != "sums", "rows": rows})


@dataclass(frozen=True)
class Layout:
    """``ranks`` of ``devices`` train; the ``workers`` score with the lead, or with all ranks."""

    mode: str
    devices: int
    ranks: int
    workers: int = 0

    def __str__(self) -> str:
        if self.workers:
            do = "train" if self.mode == "split" else "do both"
            return f"{self.ranks} {do}, {self.workers} score"
        return "all do both" if self.mode == "colocated" else "uniform"

    @property
    def turns(self) -> int:
        """Chunks, of one a device, that the busiest scoring process has."""
        if self.mode == "uniform":
            return 0
        scoring = self.workers + (1 if self.mode == "split" else self.ranks)
        return math.ceil(self.devices / scoring)

    def predicted_ms(self, row: Row) -> float:
        """What ``row`` of the plan says of it."""
        found = row[f"{self.mode}_ms"]
        return float(found if self.mode == "uniform" else found[str(self.ranks)])


def steps(options: argparse.Namespace) -> list[Row]:
    """A row for each layout."""
    devices = options.devices
    ranks = [2**n for n in range(int(math.log2(devices)))]
    layouts = [Layout("split", devices, k, devices - k) for k in ranks]
    layouts += [Layout("beside", devices, k, devices - k) for k in ranks[1:]]
    layouts = [Layout("colocated", devices, devices), *layouts, Layout("uniform", devices, devices)]
    layouts = [layout for layout in layouts if layout.mode in options.layouts]
    alone = {k: 1e3 * sums.alone_s(k, NUMBERS, options.turns) for k in (*ranks[1:], devices)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        settings = settings_of(folder, devices, options.share_ms)
        write_config(folder / "plan.toml", {**settings, "trainer.devices": 1})
        planned = plan(folder / "plan.toml", "--devices", str(devices))
        [row] = planned["devices"]
        rows = [
            row_of(folder / str(number), settings, layout, alone.get(layout.ranks, 0.0), options)
            | {"predicted_ms": layout.predicted_ms(row)}
            for number, layout in enumerate(track(layouts, "layouts"))
        ]
    best_ms = min(each["step_ms"] for each in rows if each["layout"] != "uniform")
    best = row["best"]
    mode = "beside" if best["mode"] == "colocated" and best["workers"] else best["mode"]
    chosen = Layout(mode, devices, best["ranks"], best["workers"])
    for each in rows:
        each["error"] = each["predicted_ms"] / each["step_ms"] - 1
        if each["layout"] != "uniform":
            each["behind"] = each["step_ms"] / best_ms - 1
            each["chosen"] = each["layout"] == str(chosen)
    rows[0]["parts"] = planned["parts"]
    return rows


def settings_of(folder: Path, devices: int, share_ms: float) -> dict[str, Any]:
    """A run on emulated devices, of which each has 4 points of a batch and one chunk of a window,
    if all train and score."""
    data, table = synthetic_data(folder)
    point_ms = share_ms / 3 / MICRO
    return {
        "data.path": str(data),
        "il.table": str(table),
        "model.factory": "emulated:mlp",
        "model.args": {**MODEL, "point_ms": point_ms, "precision_factor": FACTOR},
        "selection.n_b": MICRO * devices,
        "selection.n_B": RATIO * MICRO * devices,
        "selection.chunk": RATIO * MICRO,
        "scorer.precision": "fp32",
        "trainer.micro_batches": devices,
        "trainer.eval_every": 1_000_000,
        "trainer.checkpoint_every": 1_000_000,
        "cluster.start_s": 600.0,  # many interpreters start on a few cores
        "metrics.port": -1,
    }


def row_of(
    run: Path, settings: dict[str, Any], layout: Layout, sum_ms: float, options: argparse.Namespace
) -> Row:
    """Medians of the steps of a run, after the warm-up."""
    train_ms = options.share_ms * layout.devices / layout.ranks
    score_ms = layout.turns * RATIO * options.share_ms / 3 * FACTOR
    bound_ms = train_ms + score_ms + sum_ms
    modes = {"split": "split", "beside": "colocated"}
    own = {"trainer.devices": layout.ranks, "cluster.mode": modes.get(layout.mode, "auto")}
    own["trainer.steps"] = WARM_UP + max(4, math.ceil(1e3 * options.seconds / bound_ms))
    if layout.mode == "uniform":
        own["selection.function"] = "uniform"
    train(run, {**settings, **own}, layout.workers)
    taken = pq.read_table(run / "steps.parquet")["step_ms"].to_pylist()[WARM_UP:]
    step_ms = statistics.median(taken)
    times = {"step_ms": step_ms, "bound_ms": bound_ms, "ratio": step_ms / bound_ms}
    parts = {"train_ms": train_ms, "score_ms": score_ms, "sum_ms": sum_ms}
    return {"layout": str(layout), **times, **parts}


PARTS = {
    "sums": (SUMS, lambda options: sums.rows(options.megabytes, options.turns)),
    "steps": (STEPS, steps),
    "accuracy": (equal.COLUMNS, equal.rows),
}

if __name__ == "__main__":
    main()
