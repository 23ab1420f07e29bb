"""Runs of ``rhoctl`` for the stages, and their data: Fashion-MNIST of the bundle, or made up."""

from __future__ import annotations

import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from stage import Stage

from rhoselect.cli.main import run as rhoctl_here

from harness import write_config  # isort: skip  # stage.py says where it is

Settings = Mapping[str, Any]
N_B, N_BIG = 32, 320
MODELS: dict[str, Settings] = {
    "mlp": {"model.factory": "rhoselect.models:mlp", "model.args": {"width": 512, "depth": 2}},
    "resnet18": {
        "model.factory": "rhoselect.models:resnet18_small",
        "model.args": {"width": 64},
    },
}


@dataclass(frozen=True)
class Run:
    """A run of ``rhoctl train`` in a process of its own."""

    folder: Path
    process: subprocess.Popen[bytes]

    def summary(self) -> dict[str, Any]:
        """Wait for the end. Raises CalledProcessError if it failed; its log says why."""
        if self.process.wait():
            raise subprocess.CalledProcessError(self.process.returncode, self.folder.name)
        found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return found


def rhoctl(stage: Stage, name: str, *words: object) -> subprocess.Popen[bytes]:
    """Start a command; what it prints goes to NAME.log."""
    with (stage.work / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "rhoselect.cli", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "XDG_CACHE_HOME": str(stage.work / "cache")},
        )


def train_here(stage: Stage, name: str, settings: Settings) -> Path:
    """A run in this process, which has its modules and its device at hand; returns its folder."""
    config, folder = stage.work / f"{name}.toml", stage.work / name
    write_config(config, settings)
    with contextlib.redirect_stdout(io.StringIO()):
        code = rhoctl_here(["train", str(config), "--run-dir", str(folder)])
    if code:
        raise RuntimeError(f"rhoctl train, {name}: exit code {code}")
    return folder


def made(stage: Stage, name: str, *words: object) -> None:
    """Run a command that must work."""
    if code := rhoctl(stage, name, *words).wait():
        raise RuntimeError(f"rhoctl {words[0]} {words[1]}: exit code {code}; see {name}.log")


def train(stage: Stage, name: str, settings: Settings, workers: int) -> Run:
    """Start a run in a new folder NAME."""
    config, folder = stage.work / f"{name}.toml", stage.work / name
    write_config(config, settings)
    words = ("train", config, "--workers", workers, "--run-dir", folder)
    return Run(folder, rhoctl(stage, name, *words))


def settings_of(stage: Stage, model: str, steps: int, **more: Any) -> dict[str, Any]:
    """The configuration of a run; ``selection__lag=1`` is selection.lag."""
    data, table = ground(stage, 0.1)
    return {
        "data.path": str(data),
        "il.table": str(table),
        "selection.n_b": N_B,
        "selection.n_B": N_BIG,
        "selection.chunk": 32,
        "scorer.precision": "bf16",
        "scorer.device": str(stage.device),
        "trainer.device": str(stage.device),
        "trainer.steps": steps,
        "trainer.eval_every": 1_000_000,
        "trainer.checkpoint_every": 1_000_000,
        "metrics.port": -1,
        **(small(model) if stage.quick else MODELS[model]),
        **{name.replace("__", "."): value for name, value in more.items()},
    }


def small(model: str) -> Settings:
    """A model for quick runs."""
    width = {"mlp": 32, "resnet18": 4}[model]
    return {**MODELS[model], "model.args": {"width": width}}


def ground(stage: Stage, noise: float) -> tuple[Path, Path]:
    """A data folder with ``noise`` of its labels wrong, and a table of irreducible losses.

    Made by rhoctl when it is first asked for: from the bundle's Fashion-MNIST, whose losses are in
    the bundle, or else from made-up images, whose losses are fitted here.
    """
    data, table = stage.work / f"data-{noise:g}", stage.work / f"il-{noise:g}.parquet"
    if table.exists():
        return data, table
    given = Path(os.environ.get("RHO_CHECK_DATA", "/nonexistent"))
    source = given / "fashion-mnist.npz" if given.is_dir() and not stage.quick else None
    if source is None:
        made_up(source := stage.work / "points.npz")
    if not data.exists():
        words = ("data", "import", "numpy", source, data, "--label-noise", noise)
        made(stage, data.name, *words)
    ready = given / f"il-{noise:g}.parquet"
    if source.parent == given:
        table.write_bytes(ready.read_bytes())
        return data, table
    device = [f"{part}.device={stage.device}" for part in ("scorer", "trainer")]
    sets = [word for key in [*device, "model.args.width=32"] for word in ("--set", key)]
    fit = ("il", "fit", "--data", data, "--out", table, "--model", "rhoselect.models:mlp")
    made(stage, table.stem, *fit, "--epochs", 1, *sets)
    return data, table


def made_up(path: Path) -> None:
    """Noisy images [N, 1, 28, 28] of ten classes, each with a bright place of its own."""
    random, arrays = np.random.default_rng(0), {}
    for split, size in {"train": 4000, "holdout": 1000, "test": 500}.items():
        labels = random.integers(0, 10, size)
        images = random.integers(0, 200, (size, 1, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = 14 * (label // 5), 5 * (label % 5)
            image[0, row : row + 14, column : column + 5] += np.uint8(50)
        arrays |= {f"x_{split}": images, f"y_{split}": labels}
    np.savez(path, **arrays)


def step_parts(run: Path, warm_up: int) -> dict[str, float]:
    """Median milliseconds of a step and of its wait for scores, after the first steps."""
    steps = pq.read_table(run / "steps.parquet", columns=["step_ms", "wait_ms"])
    return {
        name: statistics.median(steps[name].to_pylist()[warm_up:]) for name in steps.schema.names
    }
