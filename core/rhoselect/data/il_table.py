"""The irreducible-loss table: one float32 a point, in Parquet, tied to its data set.

Columns ``index`` int64 (data-set index) and ``irreducible_loss`` float32 (nats). The file's
metadata names the data set's fingerprint, the model and its weights, and the split it learnt from.

A run looks losses up in a memory-mapped array of them, made from the table a row group at a time
and checked as it is made, once a machine: the table may be larger than memory, and the processes of
a machine share its pages.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from rhoselect.config import cache_home
from rhoselect.errors import IrreducibleLossError
from rhoselect.types import Indices

METADATA_KEY = b"rhoselect"
COLUMNS = ("index", "irreducible_loss")
STEP_ROWS = 1 << 20
Variant = Literal["holdout", "cross-fit", "reference"]
"""How the model, or models, of a table came to what they know."""


@dataclass(frozen=True)
class IlMetadata:
    """Where a table comes from. ``holdout`` = [start, stop) of the points its model learnt from.

    Of a cross-fit that is the train split, in ``folds`` folds, each scored by a model that learnt
    from the others; of a reference it is empty, for nobody here knows what it learnt from.
    """

    fingerprint: str
    model: str
    weights_sha256: str
    split: str
    holdout: tuple[int, int]
    precision: str
    date: str
    tool: str
    seconds: float
    flops: int
    variant: Variant = "holdout"
    folds: int = 0


@dataclass(frozen=True)
class IlTable:
    """Irreducible losses of the points start … start + len(values) - 1."""

    start: int
    values: npt.NDArray[np.float32]
    metadata: IlMetadata

    def at(self, indices: Indices) -> npt.NDArray[np.float32]:
        """Irreducible losses [C] in nats, float32, of ``indices`` [C]."""
        return self.values[indices - self.start]


def write_table(path: Path, table: IlTable) -> None:
    """Write a table, atomically."""
    rows = pa.table(
        {
            "index": np.arange(table.start, table.start + len(table.values), dtype=np.int64),
            "irreducible_loss": table.values,
        }
    )
    metadata = {METADATA_KEY: json.dumps(asdict(table.metadata)).encode()}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(rows.replace_schema_metadata(metadata), beside)
    beside.replace(path)


def read_table(
    path: Path,
    fingerprint: str,
    train: tuple[int, int],
    overlap: str = "forbid",
    cache: Path | None = None,
) -> IlTable:
    """The irreducible losses of the points ``train`` = [start, stop) of a data set, mapped.

    The array lies in a file under ``cache`` (default: that of ``data.cache_dir``), made and checked
    when the table is first read there, and anew for a table that is not the same file any more.
    Raises IrreducibleLossError (one line) for a missing or unreadable file, another data set's
    fingerprint, missing or repeated indices, NaN or infinite losses, and a model that learnt from
    points of ``train`` unless ``overlap`` is "allow".
    """
    metadata = _metadata(path)
    if metadata.fingerprint != fingerprint:
        raise IrreducibleLossError(
            f"il.table {path}: made for data set {metadata.fingerprint[:12]}, allowed"
            f" {fingerprint[:12]} (data.path); run 'rhoctl il fit' on this data set"
        )
    if metadata.variant != "cross-fit" and overlap != "allow":
        check_overlap(f"il.table {path}", metadata.holdout, train)
    return IlTable(train[0], _mapped(path, train, cache or cache_home() / "il"), metadata)


def check_overlap(what: str, learnt: tuple[int, int], train: tuple[int, int]) -> None:
    """Raise IrreducibleLossError if a model learnt from points [start, stop) of ``train``."""
    if max(train[0], learnt[0]) < min(train[1], learnt[1]):
        raise IrreducibleLossError(
            f"{what}: its model learnt from points {list(learnt)}, which overlap the train split"
            f' {list(train)}; fit on a holdout or with --folds, or set il.overlap = "allow"'
        )


def _mapped(path: Path, train: tuple[int, int], cache: Path) -> npt.NDArray[np.float32]:
    """The checked losses [stop - start] of a table, mapped from a file under ``cache``.

    The file's name holds what tells this table from those that were at its path before, whose files
    go. It is written beside and renamed; two processes that make it at once make the same.
    """
    status = path.stat()
    place = _digest(str(path.resolve()), *train)
    version = _digest(status.st_ino, status.st_size, status.st_mtime_ns)
    values = cache / f"{place}-{version}.f32"
    if not values.is_file():
        beside = values.with_suffix(f".{os.getpid()}")
        try:
            _make(path, train, beside)
            for older in cache.glob(f"{place}-*.f32"):
                older.unlink(missing_ok=True)
            beside.replace(values)
        finally:
            with suppress(OSError):  # it is renamed by now, or could not even be made
                beside.unlink()
    # Copy on write, though nobody writes: torch warns of arrays that are read-only.
    return np.memmap(values, np.float32, "c")


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _make(path: Path, train: tuple[int, int], values: Path) -> None:
    """Write the file of a table's checked losses."""
    count = train[1] - train[0]
    try:
        values.parent.mkdir(parents=True, exist_ok=True)
        # Really written, not left as a hole: on a full disk a mapped hole would kill the process.
        with values.open("wb") as file:
            for first in range(0, count, STEP_ROWS):
                np.full(min(STEP_ROWS, count - first), np.nan, np.float32).tofile(file)
    except OSError as error:
        raise IrreducibleLossError(
            f"il.table {path}: its losses cannot be kept under {values.parent} ({error}); set"
            " data.cache_dir to a folder with room"
        ) from None
    losses = np.memmap(values, np.float32, "r+")
    _fill(path, train, losses)
    losses.flush()


def _fill(path: Path, train: tuple[int, int], values: npt.NDArray[np.float32]) -> None:
    """Write the table's losses into ``values`` (all NaN); raise unless each point has a finite one.

    A slot that is still NaN has no row, since NaN in the table is kept as infinity: as many rows as
    slots and no slot empty means no row twice.
    """
    start, stop = train
    rows = 0
    for index, losses in _row_groups(path):
        inside = (index >= start) & (index < stop)
        rows += int(inside.sum())
        values[index[inside] - start] = np.where(np.isnan(losses), np.inf, losses)[inside]
    missing, bad = 0, None
    for first in range(0, len(values), STEP_ROWS):
        part = values[first : first + STEP_ROWS]
        missing += int(np.isnan(part).sum())
        if bad is None and np.isinf(part).any():
            bad = int(np.flatnonzero(np.isinf(part))[0]) + first + start
    if rows != stop - start or missing:
        raise IrreducibleLossError(
            f"il.table {path}: got {rows} rows for the {stop - start} points of the train"
            f" split, {missing} points missing; allowed one row a point; run 'rhoctl il fit' again"
        )
    if bad is not None:
        raise IrreducibleLossError(
            f"il.table {path}: irreducible_loss of index {bad} is not finite; allowed finite nats;"
            " run 'rhoctl il fit' again"
        )


def _row_groups(
    path: Path,
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """(index [R], losses [R]) of successive rows, a bounded number at a time."""
    with _refusing(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(STEP_ROWS, columns=list(COLUMNS)):
            assert batch["index"].null_count == 0, "index has missing values"
            losses = batch["irreducible_loss"].to_numpy(zero_copy_only=False)
            yield batch["index"].to_numpy(), losses.astype(np.float32)


def _metadata(path: Path) -> IlMetadata:
    if not path.is_file():
        raise IrreducibleLossError(
            f"il.table {path}: no such file; make it with 'rhoctl il fit --data D --out {path}'"
        )
    with _refusing(path):
        schema = pq.read_schema(path)
        metadata = TypeAdapter(IlMetadata).validate_json(schema.metadata[METADATA_KEY])
        start, stop = metadata.holdout
        index, losses = (schema.field(name).type for name in COLUMNS)
        assert index == pa.int64() and pa.types.is_floating(losses) and start <= stop
    return metadata


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """What breaks while the file is read says that it is no table."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, AssertionError) as error:
        if isinstance(error, IrreducibleLossError):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise IrreducibleLossError(
            f"il.table {path}: not a table of 'rhoctl il fit' ({reason}); allowed Parquet with"
            " index int64, irreducible_loss float32 and its metadata; fit it again"
        ) from None
