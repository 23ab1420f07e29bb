"""The run's logs: one row per step, one line per evaluation, and the summary at the end.

Rows are written to part files, one per checkpoint. On resume the parts after the checkpoint are
deleted, so the logs hold exactly the steps that the weights have taken. A part's name holds the
step at its end and the generation of the trainer that wrote it. An older trainer may write the same
steps before it notices that it was replaced; the rows of the newer generation count.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import nn

from rhoselect.data import SplitPoints
from rhoselect.errors import RunFolderError
from rhoselect.trainer.runfolder import RunFolder, put
from rhoselect.types import Indices

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("window", pa.int64()),
        ("indices", pa.list_(pa.int64())),
        ("scores", pa.list_(pa.float64())),
        ("loss", pa.float64()),
        ("staleness", pa.int64()),
        ("candidates", pa.int64()),
        ("wait_ms", pa.float64()),
        ("step_ms", pa.float64()),
        ("corrupted_share", pa.float64()),
        ("correct_share", pa.float64()),
    ]
)

ROW_GROUP = 1 << 14  # steps, of a run's one file in the end


@dataclass(frozen=True)
class StepRecord:
    """One row of steps.parquet; the fields are its columns, in order.

    ``step`` counts from 0; ``window``: the window selected from; ``indices`` [n_b]: data-set
    indices in training order; ``scores`` [n_b]: their scores, as in the last stage; ``loss``: mean
    training loss in nats, before the step; ``staleness``: age in steps of the weights that scored
    the window; ``candidates``: points that were to choose from; ``wait_ms``: milliseconds from the
    request for the batch until its points were picked; ``step_ms``: milliseconds from the same
    moment until the new weights were published and the window was closed; ``corrupted_share``:
    share of points with a wrong label, 0 to 1 (None: clean labels are not known);
    ``correct_share``: share of points classified correctly before the step, 0 to 1. ``loss`` and
    ``correct_share`` are None where only a loop of the user's own knows them.
    """

    step: int
    window: int
    indices: Indices | Sequence[int]
    scores: Sequence[float]
    loss: float | None
    staleness: int
    candidates: int
    wait_ms: float
    step_ms: float
    corrupted_share: float | None
    correct_share: float | None


class Records:
    """The logs of one run folder, from ``step`` on. Deletes what was logged for later steps.

    Every write raises FencedError once a newer trainer owns the folder.
    """

    def __init__(self, folder: RunFolder, step: int) -> None:
        self._folder = folder
        self._rows: list[StepRecord] = []
        folder.check_fence()
        for part in part_paths(folder.path):
            if _generation_and_end(part)[1] > step:
                part.unlink()
        evaluations = [e for e in read_evaluations(folder.path) if e["step"] <= step]
        lines = "".join(json.dumps(e) + "\n" for e in evaluations)
        put(folder, folder.path / "eval.jsonl", lambda beside: beside.write_text(lines, "utf-8"))

    def append(self, record: StepRecord) -> None:
        """Add a row; it reaches the disk with ``flush``."""
        self._rows.append(record)

    def add_values(self, step: int, seconds: float, values: Mapping[str, Any]) -> None:
        """Add a line to eval.jsonl of what was measured after ``step`` steps."""
        self._folder.check_fence()
        line = {"step": step, "seconds": round(seconds, 3), **values}
        with (self._folder.path / "eval.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def flush(self) -> None:
        """Write the rows since the last part as one, atomically. Raises FencedError."""
        self.write(self.cut())

    def cut(self) -> Sequence[StepRecord]:
        """Begin a new part. Returns the rows of the one before it, for ``write``."""
        rows, self._rows = self._rows, []
        return rows

    def write(self, rows: Sequence[StepRecord]) -> None:
        """Write the rows of a part, atomically; any thread may call this. Raises FencedError."""
        if not rows:
            return
        columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
        end, generation = rows[-1].step + 1, self._folder.generation
        path = self._folder.path / "steps" / f"part-{end:09d}-{generation}.parquet"
        table = pa.table(columns, schema=SCHEMA)
        put(self._folder, path, lambda beside: pq.write_table(table, beside))

    def finish(self, summary: dict[str, Any]) -> None:
        """Merge the parts into steps.parquet and write summary.json."""
        folder = self._folder
        put(folder, folder.path / "steps.parquet", lambda beside: _merge(folder.path, beside))
        self.write_summary(summary)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json."""
        text, path = json.dumps(summary, indent=2) + "\n", self._folder.path / "summary.json"
        put(self._folder, path, lambda beside: beside.write_text(text, "utf-8"))


def _merge(folder: Path, beside: Path) -> None:
    """All parts as one file, read one after the other: together they may not fit into memory."""
    with pq.ParquetWriter(beside, SCHEMA) as writer:
        for table in _read_parts(folder, SCHEMA.names):
            for batch in table.to_batches():
                writer.write_batch(batch, ROW_GROUP)


def read_steps(folder: Path, columns: Sequence[str] = SCHEMA.names) -> pa.Table:
    """All rows of a run, finished or not, in step order. Raises RunFolderError if some are
    missing."""
    tables = list(_read_parts(folder, columns))
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table().select(columns)


def read_selected(folder: Path) -> Iterator[Indices]:
    """The selected indices of all steps in training order, a part at a time. Raises RunFolderError
    if some are missing."""
    for table in _read_parts(folder, ["indices"]):
        for chunk in table["indices"].chunks:
            yield chunk.flatten().to_numpy()


def _read_parts(folder: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of steps 0, 1, … part by part; each step once, as the newest trainer wrote it."""
    counting: list[tuple[Path, int]] = []  # parts, the last first, and how many of their rows count
    first: int | None = None  # the first step that those tell of
    for part in sorted(part_paths(folder), key=_generation_and_end, reverse=True):
        end = _generation_and_end(part)[1]
        start = end - pq.read_metadata(part).num_rows
        stop = end if first is None else min(end, first)
        if start >= stop:
            continue
        _check_no_gap(folder, stop, first)
        counting.append((part, stop - start))
        first = start
    _check_no_gap(folder, 0, first)
    for part, rows in reversed(counting):
        yield pq.read_table(part, columns=columns).slice(0, rows)


def _check_no_gap(folder: Path, step: int, first: int | None) -> None:
    if first is not None and step < first:
        raise RunFolderError(
            f"run folder {folder}: steps {step} to {first - 1} are missing in steps/; allowed all"
            " steps from 0 on; restore the part files that were there"
        )


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """The lines of eval.jsonl; a line cut short by a crash is left out."""
    path = folder / "eval.jsonl"
    if not path.exists():
        return []
    lines = path.read_text("utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def corrupted_share(points: SplitPoints, indices: Indices) -> float | None:
    """The share of ``indices`` [C] with a wrong label; None if clean labels are not known."""
    clean = points.clean_labels(indices)
    return None if clean is None else float((clean != points.labels(indices)).mean())


def end_of_parts(folder: Path, step: int) -> int:
    """The step at the end of the newest part that has no later one than ``step``; 0 of none."""
    ends = [_generation_and_end(part)[1] for part in part_paths(folder)]
    return max((end for end in ends if end <= step), default=0)


def rows_after(folder: Path, step: int) -> list[StepRecord]:
    """The rows of ``step`` and later ones."""
    tables = _read_parts(folder, SCHEMA.names)
    later = (table.filter(pc.field("step") >= step).to_pylist() for table in tables)
    return [StepRecord(**row) for rows in later for row in rows]


def part_paths(folder: Path) -> list[Path]:
    """The part files of a run."""
    # Not glob, which finds nothing in a folder that may not be read.
    return [path for path in (folder / "steps").iterdir() if path.match("part-*.parquet")]


def selected_sha256(indices: Iterable[Indices]) -> str:
    """Hash of the selected indices as little-endian int64 in training order."""
    digest = hashlib.sha256()
    for row in indices:
        digest.update(np.asarray(row, dtype="<i8").tobytes())
    return digest.hexdigest()


def weights_sha256(model: nn.Module) -> str:
    """Hash of ``state_dict()`` in name order: name in UTF-8, a zero byte, the tensor's bytes.

    Buffers such as BatchNorm's statistics count, and a tied weight counts under each of its names.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + b"\0")
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _generation_and_end(part: Path) -> tuple[int, int]:
    _, end, *generation = part.stem.split("-")
    return int(generation[0]) if generation else 0, int(end)  # version 0.1 wrote no generation
