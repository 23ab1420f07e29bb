"""What the benchmarks share: runs of `rhoctl train` in fresh processes, locks, and JSON files."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tomlkit
from rich.console import Console
from rich.table import Table

from rhoselect.data.il_table import IlMetadata, IlTable, write_table
from rhoselect.importers import write_dataset
from rhoselect.report.origin import origin

HERE = Path(__file__).resolve().parent
Settings = Mapping[str, Any]


def train(run: Path, settings: Settings, workers: int, stop: threading.Event | None = None) -> None:
    """One run of `rhoctl train` with ``settings`` by dotted name, into the folder ``run``.

    Ended, in order, once ``stop`` is set.
    """
    config = run.with_name(f"{run.name}.toml")
    write_config(config, settings)
    command = ["train", str(config), "--workers", str(workers), "--run-dir", str(run)]
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "rhoselect.cli", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if stop else None,
        env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
    )
    while stop and not stop.wait(0.1) and process.poll() is None:
        pass
    if stop and stop.is_set():
        process.terminate()  # SIGINT may be ignored where the benchmark runs in the background
        process.wait()
    elif process.wait():
        raise subprocess.CalledProcessError(process.returncode, command)


def write_config(path: Path, settings: Settings) -> None:
    """A configuration file of ``settings`` by dotted name."""
    tree: dict[str, Any] = {}
    for name, value in settings.items():
        *sections, key = name.split(".")
        section = tree
        for part in sections:
            section = section.setdefault(part, {})
        section[key] = value
    path.write_text(tomlkit.dumps(tree))


def synthetic_data(
    folder: Path, points: int = 20_000, shape: tuple[int, ...] = (1, 28, 28)
) -> tuple[Path, Path]:
    """Random images of 10 classes with random irreducible losses, for timing only."""
    rng = np.random.default_rng(0)

    def split(rows: int) -> tuple[Any, Any]:
        images = rng.integers(0, 256, (rows, *shape), np.uint8)
        return images, rng.integers(0, 10, rows)

    data, table = folder / "data", folder / "il.parquet"
    manifest = write_dataset(data, "image", {"train": split(points), "test": split(200)})
    about = IlMetadata(
        fingerprint=manifest.fingerprint,
        model="random",
        weights_sha256="",
        split="none",
        holdout=(points, points),
        precision="fp32",
        date="",
        tool="",
        seconds=0.0,
        flops=0,
    )
    losses = rng.random(points, np.float32)
    write_table(table, IlTable(0, losses, about))
    return data, table


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Whether this process alone has the lock ``path``, for the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def show(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print rows as a table."""
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    Console(width=160).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return " ".join(f"{key} {_cell(part)}" for key, part in value.items())
    return str(value)


def write(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Write figures with the command and machine that gave them."""
    if path is not None:
        path.write_text(json.dumps({**origin(), **figures}, indent=2) + "\n")
