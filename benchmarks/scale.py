"""Whether a billion points cost more than a million: plan, irreducible losses, reading a window.

Makes synthetic data sets of 1e6, 1e8 and 1e9 points of 1 byte (sparse files: all zeros, which take
no disk; hashes in the manifest are made up, and not checked at open) and irreducible-loss tables of
one value for them, then times one window of 320 candidates in fresh processes, sizes interleaved:
plan -> indices (shuffled and streamed), indices -> irreducible losses, indices -> batch. Every
window is new, so a large data set's pages are touched for the first time, which costs a page fault
a point: `..._again` is the same window once more, without those. Memory is that of the process
after all windows: `rss_mb` is private, `mapped_mb` are pages of files, which processes share and
the kernel takes back at need. Opening is timed too: it checks every label, so it is linear; and
making the array of irreducible losses from their table, once a machine (`il_first_open_s`).

Also how uniform the streamed order is: windows of data sorted by class, the worst case.

    python benchmarks/scale.py --json docs/results/scale.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table

import arguments
from rhoselect.data import ArrowDataset
from rhoselect.data.il_table import IlMetadata, IlTable, read_table, write_table
from rhoselect.data.manifest import Inputs, Manifest, Shard
from rhoselect.plan import Plan, StreamedPlan
from rhoselect.report.origin import origin

POINTS = (10**6, 10**8, 10**9)
SHARD_ROWS = 1 << 26
N_B, CHUNK, GROUP = 320, 32, 8
WINDOWS = 500
MADE_UP = "0" * 64
TIMES = (
    "plan_us_per_window",
    "streamed_plan_us_per_window",
    "il_us_per_window",
    "il_again_us_per_window",
    "read_us_per_window",
    "read_again_us_per_window",
)
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, nargs="+", default=list(POINTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the files here; made if not there")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = arguments.parse(parser, points=[2000], repeats=1)
    if options.one is not None:
        print(json.dumps(measured(options.folder, options.one)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        firsts = [make(folder, points) for points in options.points]
        rows = measure_all(folder, options.points, options.repeats)
        for row, seconds in zip(rows, firsts, strict=True):
            row["il_first_open_s"] = round(seconds, 2)
    uniformity = [uniform_row(group) for group in (None, 1, 2, 8, 32)]
    console = Console(width=140)
    console.print(table(f"one window of {N_B} candidates", rows))
    console.print(table("uniformity: 1e6 points in 100 shards, sorted into 10 classes", uniformity))
    if options.json is not None:
        described = {**origin(), "seed": 0, "n_B": N_B, "windows": WINDOWS}
        described |= {"data": "synthetic: sparse files of zeros", "repeats": options.repeats}
        described |= {"rows": rows, "uniformity": uniformity}
        options.json.write_text(json.dumps(described, indent=2) + "\n")


def make(folder: Path, points: int) -> float:
    """A data set and its losses, unless they are there; the seconds of mapping the losses."""
    path = folder / str(points)
    if not (path / "manifest.json").exists():
        make_files(path, points)
    for array in (path / "cache").glob("*"):
        array.unlink()
    started = time.perf_counter()
    read_table(path / "il.parquet", MADE_UP, (0, points), cache=path / "cache")
    return time.perf_counter() - started


def make_files(path: Path, points: int) -> None:
    """A data set and its irreducible-loss table."""
    path.mkdir(parents=True, exist_ok=True)
    inputs = Inputs(kind="image", shape=(1, 1, 1))
    shards = []
    for number, start in enumerate(range(0, points, SHARD_ROWS)):
        rows = min(SHARD_ROWS, points - start)
        file = path / f"{number:05d}.arrow"
        write_sparse(file, inputs, rows)
        shards.append(Shard(file=file.name, rows=rows, bytes=file.stat().st_size, sha256=MADE_UP))
    write_losses(path / "il.parquet", points)
    manifest = Manifest(
        inputs=inputs,
        classes=2,
        fingerprint=MADE_UP,
        splits={"train": (0, points)},
        shards=tuple(shards),
        clean_label=False,
        mean=(0.5,),
        std=(0.5,),
        label_noise=0.0,
        noise_seed=0,
        source="synthetic",
    )
    (path / "manifest.json").write_text(manifest.model_dump_json())


class Sparse:
    """A file to write to, in which zeros become holes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.closed = False

    def write(self, content: Any) -> int:
        if np.frombuffer(content, np.uint8).any():
            self._file.write(content)
        else:
            self._file.truncate(self._file.seek(len(content), 1))
        return len(content)

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()
        self.closed = True


def write_sparse(path: Path, inputs: Inputs, rows: int) -> None:
    """A shard of zeros."""
    zeros = pa.py_buffer(np.zeros(rows, np.int64))
    pixels = zeros.slice(0, rows)
    columns = [
        pa.FixedSizeBinaryArray.from_buffers(inputs.column_type(), rows, [None, pixels]),
        pa.Array.from_buffers(pa.int64(), rows, [None, zeros]),
    ]
    schema = pa.schema({"inputs": inputs.column_type(), "label": pa.int64()})
    sink = Sparse(path)
    with pa.ipc.new_file(pa.PythonFile(sink, "w"), schema) as file:
        file.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    sink.close()


def write_losses(path: Path, points: int) -> None:
    """A table of one loss, row group by row group: encoded, it is small."""
    metadata = IlMetadata(MADE_UP, "m:m", MADE_UP, "holdout", (0, 0), "fp32", "now", "t", 0.0, 0)
    write_table(path, IlTable(0, np.zeros(1, np.float32), metadata))
    schema = pq.read_schema(path)
    encodings = {"index": "DELTA_BINARY_PACKED"}
    with pq.ParquetWriter(
        path, schema, use_dictionary=["irreducible_loss"], column_encoding=encodings
    ) as file:
        for start in range(0, points, SHARD_ROWS):
            index = np.arange(start, min(start + SHARD_ROWS, points), dtype=np.int64)
            losses = np.full(len(index), 0.5, np.float32)
            file.write_table(pa.table([index, losses], schema=schema))


def measure_all(folder: Path, sizes: list[int], repeats: int) -> list[Row]:
    """A row a size: medians over fresh processes, and ratios to the first size's."""
    runs: dict[int, list[Row]] = {points: [] for points in sizes}
    for _ in range(repeats):
        for points in sizes:
            command = [sys.executable, __file__, "--folder", str(folder), "--one", str(points)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            runs[points].append(json.loads(done.stdout))
    rows: list[Row] = []
    for points in sizes:
        found = runs[points]
        row = {name: round(statistics.median(run[name] for run in found), 2) for name in found[0]}
        first = rows[0] if rows else row
        ratios = {f"{name}_ratio": round(row[name] / first[name], 2) for name in (*TIMES, "rss_mb")}
        rows.append({"points": points, **row, **ratios})
    return rows


def measured(folder: Path, points: int) -> Row:
    """The figures of one size, in this process."""
    torch.set_num_threads(1)
    path, row = folder / str(points), {}
    started = time.perf_counter()
    train = ArrowDataset.open(path).split("train")
    row["data_open_s"] = time.perf_counter() - started
    started = time.perf_counter()
    losses = read_table(path / "il.parquet", MADE_UP, (0, points), cache=path / "cache")
    row["il_open_s"] = time.perf_counter() - started
    plan = Plan(0, points, N_B, CHUNK)
    streamed = StreamedPlan(0, points, N_B, CHUNK, train.block_rows, GROUP)
    device = torch.device("cpu")
    seconds: dict[str, list[float]] = {name: [] for name in TIMES}
    for window in range(WINDOWS):
        positions = plan.window(window)
        indices = plan.indices(positions)
        parts: tuple[Callable[[], object], ...] = (
            lambda p=positions: plan.indices(p),
            lambda p=positions: streamed.indices(p),
            lambda i=indices: losses.at(i),
            lambda i=indices: losses.at(i),
            lambda i=indices: train.read(i, device),
            lambda i=indices: train.read(i, device),
        )
        for name, part in zip(TIMES, parts, strict=True):
            started = time.perf_counter()
            part()
            seconds[name].append(time.perf_counter() - started)
    row |= {name: 1e6 * statistics.median(taken) for name, taken in seconds.items()}
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    row["rss_mb"] = int(status["RssAnon"].split()[0]) / 1024
    row["mapped_mb"] = int(status["RssFile"].split()[0]) / 1024
    return row


def uniform_row(group: int | None, points: int = 10**6, shards: int = 100) -> Row:
    """How windows of an epoch mix shards and classes; ``group`` None is the shuffled plan.

    ``class_distance``: mean total variation distance of a window's classes to the data set's.
    ``pair_ratio``: how much likelier than by chance two candidates of a window share a shard.
    ``step_ratio``: mean distance on disk of consecutive candidates, against n / 3 (uniform).
    """
    block = points // shards
    plan = Plan(0, points, N_B, CHUNK)
    if group is not None:
        plan = StreamedPlan(0, points, N_B, CHUNK, block, group)
    distances, pairs, counts, steps = [], [], [], []
    for window in range(0, points // N_B, 5):
        rows = plan.indices(plan.window(window))
        classes = np.bincount(rows * 10 // points, minlength=10) / N_B
        distances.append(0.5 * np.abs(classes - 0.1).sum())
        held = np.bincount(rows // block, minlength=shards)
        counts.append(np.count_nonzero(held))
        pairs.append((held * (held - 1)).sum() / (N_B * (N_B - 1)))
        steps.append(np.abs(np.diff(rows)).mean())
    return {
        "order": "shuffled" if group is None else f"streamed, {group} blocks",
        "shards_per_window": round(float(np.mean(counts)), 2),
        "class_distance": round(float(np.mean(distances)), 4),
        "pair_ratio": round(float(np.mean(pairs) * shards), 3),
        "step_ratio": round(float(np.mean(steps) / (points / 3)), 3),
    }


def table(title: str, rows: list[Row]) -> Table:
    """Names down the side, a column a row."""
    made = Table("", *(str(next(iter(row.values()))) for row in rows), title=title)
    for name in list(rows[0])[1:]:
        made.add_row(name, *(f"{row[name]:g}" for row in rows))
    return made


if __name__ == "__main__":
    main()
