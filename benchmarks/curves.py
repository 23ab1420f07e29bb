"""Learning curves for the benchmarks: data with label noise, irreducible losses, runs, targets."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from harness import Settings, train
from rhoselect.data.il_table import read_table
from rhoselect.report.metric import Metric, smoothed


@dataclass(frozen=True)
class Ground:
    """A data set with ``noise`` of its labels wrong, and irreducible losses for it."""

    noise: float
    data: Path
    table: Path
    il_seconds: float
    il_flops: int

    @property
    def settings(self) -> dict[str, Any]:
        return {"data.path": str(self.data), "il.table": str(self.table)}


@dataclass(frozen=True)
class Curve:
    """Accuracies on a grid of steps, and the seconds of training until each (evaluations left out).
    ``bits`` is the run's selected_sha256."""

    steps: list[int]
    accuracies: list[float]
    seconds: list[float]
    step_ms: float
    flops: dict[str, int]
    bits: str

    @property
    def smoothed(self) -> list[float]:
        """Means of up to three neighbours on the grid."""
        means: list[float] = smoothed(np.array(self.accuracies)).tolist()
        return means

    @property
    def best(self) -> float:
        return max(self.smoothed)

    def reach(self, target: float) -> int | None:
        """The place on the grid at which the smoothed accuracy reaches ``target``."""
        return Metric().first(np.array(self.smoothed), target)


def make_ground(
    folder: Path, noise: float, il_model: str, il_args: Sequence[object], quick: bool = False
) -> Ground:
    """Import data (``import_data``) and fit irreducible losses."""
    data, table = folder / f"data-{noise:g}", folder / f"il-{noise:g}.parquet"
    import_data(data, noise, quick)
    return fit_il(noise, data, table, il_model, il_args)


def import_data(data: Path, noise: float, quick: bool) -> None:
    """Fashion-MNIST with label noise, half of it held out. ``quick``: made-up points in its place,
    3,000 instead of 60,000."""
    source: tuple[object, ...] = ("fashion-mnist", "auto")
    if quick:
        points = Path(f"{data}.npz")
        np.savez(points, **made_up())
        source = ("numpy", points)
    rhoctl("data", "import", *source, data, "--label-noise", noise, "--holdout", 0.5)


def made_up() -> dict[str, np.ndarray]:
    """Images [N, 1, 28, 28] of 10 classes, each a pattern under noise; labels [N]."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 64, (10, 1, 28, 28), np.uint8)
    arrays = {}
    for split, count in (("train", 3000), ("test", 1000)):
        labels = arrays[f"y_{split}"] = rng.integers(0, 10, count)
        noise = rng.integers(0, 192, (count, 1, 28, 28), np.uint8)
        arrays[f"x_{split}"] = patterns[labels] + noise
    return arrays


def fit_il(noise: float, data: Path, table: Path, model: str, args: Sequence[object]) -> Ground:
    """Irreducible losses by ``model``; ``args`` are those of `rhoctl il fit`."""
    rhoctl("il", "fit", "--data", data, "--out", table, "--model", model, *args)
    manifest = json.loads((data / "manifest.json").read_text())
    about = read_table(table, manifest["fingerprint"], tuple(manifest["splits"]["train"])).metadata
    return Ground(noise, data, table, about.seconds, about.flops)


def rhoctl(*words: object) -> None:
    """Run a command of rhoctl."""
    command = [sys.executable, "-m", "rhoselect.cli", *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def learn(run: Path, settings: Settings, workers: int = 0) -> Curve:
    """Train and return the curve."""
    train(run, {"metrics.port": -1, **settings}, workers)
    return curve_of(run)


def curve_of(run: Path) -> Curve:
    """The curve of a finished run."""
    lines = (run / "eval.jsonl").read_text().splitlines()
    evaluations = [json.loads(line) for line in lines]
    step_ms = pq.read_table(run / "steps.parquet")["step_ms"].to_pylist()
    elapsed_s, total_ms = [0.0], 0.0
    for each in step_ms:
        total_ms += each
        elapsed_s.append(total_ms / 1e3)
    steps = [int(e["step"]) for e in evaluations]
    summary = json.loads((run / "summary.json").read_text())
    return Curve(
        steps,
        [e["accuracy"] for e in evaluations],
        [elapsed_s[step] for step in steps],
        statistics.median(step_ms),
        summary["flops"],
        summary["selected_sha256"],
    )
