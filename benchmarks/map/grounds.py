"""Data and irreducible losses of a cell, each made once."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from cells import Cell, Target

from curves import made_up
from harness import locked
from rhoselect.cli import main as cli
from rhoselect.comparison.points import Points
from rhoselect.data import ArrowDataset
from rhoselect.data.il_table import IlTable, read_table, write_table
from rhoselect.importers import write_dataset

VALIDATION = 500
"""Sequences of the holdout's prose on which rates are chosen; no arm learns from them."""


@dataclass(frozen=True)
class Grounds:
    """The grounds below the folder ``data``. ``quick``: made-up images in the place of
    Fashion-MNIST's."""

    data: Path
    quick: bool = False

    def make(self, cell: Cell) -> Points:
        """Those of a cell; what is missing is made."""
        with locked(self.data / f"{cell.target.data}.lock"):
            return self._made(cell)

    def _made(self, cell: Cell) -> Points:
        path: Path = getattr(self, f"_{cell.target.data}")(cell)
        table = self.data / f"{path.name}-{cell.target.name}-il.parquet"
        if not table.exists() and cell.copies > 1:
            copy_losses(self._made(replace(cell, copies=1)), path, table)
        elif not table.exists():
            fit(path, table, cell.target)
        train = ArrowDataset.open(path).splits["train"]
        return Points(path, table, train[1] - train[0])

    def _fashion(self, cell: Cell) -> Path:
        assert cell.noise is not None
        times = f"x{cell.copies}" if cell.copies > 1 else ""
        path = self.data / f"noise{100 * cell.noise:g}{times}"
        if not path.exists():
            source = ("fashion-mnist", "auto")
            if self.quick:
                source = ("numpy", f"{path}.npz")
                np.savez(source[1], **made_up())
            options = ("--label-noise", cell.noise, "--duplicates", cell.copies, "--holdout", 0.5)
            rhoctl("data", "import", *source, path, *options)
        return path

    def _prose(self, cell: Cell) -> Path:
        path = self.data / "prose"
        if not path.exists():
            made_by("examples.gpt_debian", Path("data/gpt-debian/origin.json"))
            write_prose(path, {name: sequences(name) for name in ("train", "holdout", "test")})
        return path

    def _sections(self, cell: Cell) -> Path:
        path = Path("data/debian-sections")
        made_by("examples.debian_sections", path.with_name("debian-sections-origin.json"))
        return path


class Prose:
    """As ``comparison.points.Source``, of sequences whose train split is not what is wanted: rates
    are chosen on prose of the holdout."""

    def __init__(self, points: Points, root: Path) -> None:
        self._points, self._root = points, root

    def make(self, subset: str, share: float, tuned: bool) -> Points:
        """The points of an arm, as ``Source.make``."""
        if subset == "train" and not tuned:
            return self._points
        path = self._root / f"{'tune' if tuned else 'final'}-{subset}"
        train, holdout = sequences("train"), sequences("holdout")
        if subset == "joined":
            train = np.concatenate([train, holdout[:-VALIDATION]])
        test = holdout[-VALIDATION:] if tuned else sequences("test")
        with locked(path.with_suffix(".lock")):
            if not path.exists():
                write_prose(path, {"train": train, "test": test})
            table = None if subset == "joined" else path.with_suffix(".parquet")
            if table is not None and not table.exists():
                rewrite(self._points, path, table, np.arange(len(train)))
        return Points(path, table, len(train))


def sequences(split: str) -> np.ndarray:
    """Those that examples/gpt_debian.py made, [N, 128] int64."""
    found: np.ndarray = np.load(f"data/gpt-debian/{split}.npy").astype(np.int64)
    return found


def write_prose(path: Path, splits: dict[str, np.ndarray]) -> None:
    """A folder of sequences, whose labels say nothing."""
    found = {name: (rows, np.zeros(len(rows), np.int64)) for name, rows in splits.items()}
    write_dataset(path, "tokens", found, source="examples/gpt_debian.py", vocabulary=256)


def fit(path: Path, table: Path, target: Target) -> None:
    """Irreducible losses. Their seconds are processor time, as those of steps."""
    beside = table.with_suffix(".new")
    beside.unlink(missing_ok=True)
    began = time.process_time()
    rhoctl("il", "fit", "--data", path, "--out", beside, "--device", "cpu", *target.il)
    seconds = time.process_time() - began
    found = losses_of(path, beside)
    write_table(table, replace(found, metadata=replace(found.metadata, seconds=seconds)))
    beside.unlink()


def copy_losses(once: Points, path: Path, table: Path) -> None:
    """Those of points that are there several times, from those of the points once."""
    duplicates = ArrowDataset.open(path).manifest.duplicates
    assert duplicates is not None
    rewrite(once, path, table, duplicates.originals(np.arange(duplicates.rows)))


def rewrite(points: Points, path: Path, table: Path, rows: np.ndarray) -> None:
    """The losses of ``points`` at ``rows`` as those of the train split of the folder ``path``."""
    assert points.table is not None
    found, dataset = losses_of(points.path, points.table), ArrowDataset.open(path)
    span = dataset.splits.get("holdout", (0, 0))
    about = replace(found.metadata, fingerprint=dataset.fingerprint, holdout=span)
    write_table(table, IlTable(0, np.array(found.values[rows]), about))


def losses_of(path: Path, table: Path) -> IlTable:
    """The table of a folder's points."""
    dataset = ArrowDataset.open(path)
    return read_table(table, dataset.fingerprint, dataset.splits["train"])


def made_by(module: str, origin: Path) -> None:
    """Run a script of examples/ unless the file that it writes last is there."""
    if not origin.exists():
        subprocess.run([sys.executable, "-m", module], check=True)


def rhoctl(*words: object) -> None:
    """Run a command of rhoctl in this process."""
    if code := cli.run([str(word) for word in words]):
        raise SystemExit(code)
