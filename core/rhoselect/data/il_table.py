"""The irreducible-loss table: one float32 a point, in Parquet, tied to its data set.

Columns ``index`` int64 (data-set index) and ``irreducible_loss`` float32 (nats). The file's
metadata names the data set's fingerprint, the model and its weights, and the split it learnt from.

A run looks losses up in a memory-mapped array. It is made from the table a row group at a time and
checked on the way, once on each machine. So the table may be larger than memory, and the processes
of a machine share its pages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rhoselect.config import cache_home
from rhoselect.errors import IrreducibleLossError
from rhoselect.files import replacing
from rhoselect.fitted import METADATA_KEY, FittedFile, dump_metadata, parse_metadata
from rhoselect.types import Indices

COLUMNS = ("index", "irreducible_loss")
STEP_ROWS = 1 << 20
Variant = Literal["holdout", "cross-fit", "reference"]
"""Which points the model, or the models, of a table learnt from: see ``IlMetadata``."""


@dataclass(frozen=True)
class IlMetadata:
    """Where a table comes from. ``holdout`` = [start, stop) of the points its model learnt from.

    For a cross-fit that is the train split, in ``folds`` folds, each scored by a model that learnt
    from the others. For a reference it is empty: what its model learnt from is unknown. How good
    the model is on the points that it scores: ``accuracy``; mean losses in nats of a guess by the
    labels' shares, and after the last epoch (the best one is kept). ``data``: ``Config.data_keys``.
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
    accuracy: float | None = None
    guess_loss: float | None = None
    last_loss: float | None = None
    data: Mapping[str, str] = field(default_factory=dict)


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
    metadata = {METADATA_KEY: dump_metadata(table.metadata)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        pq.write_table(rows.replace_schema_metadata(metadata), beside)


def read_table(
    path: Path,
    fingerprint: str,
    train: tuple[int, int],
    overlap: str = "forbid",
    cache: Path | None = None,
    data: Mapping[str, str] | None = None,
) -> IlTable:
    """The irreducible losses of the points ``train`` = [start, stop) of a data set, mapped.

    The array lies in a file under ``cache`` (default: that of ``data.cache_dir``), made and checked
    when the table is first read there, and anew for another file. Raises IrreducibleLossError (one
    line) for a missing or unreadable file, one of another data set (``data``: ``Config.data_keys``,
    to name the difference), missing or repeated indices, NaN or infinite losses, and a model that
    learnt from points of ``train`` unless ``overlap`` is "allow".
    """
    file = _file(path)
    file.check_exists()
    metadata = _metadata(file)
    file.check_fingerprint(metadata.fingerprint, fingerprint, metadata.data, data or {})
    if metadata.variant != "cross-fit" and overlap != "allow":
        check_overlap(f"il.table {path}", metadata.holdout, train)
    return IlTable(train[0], _mapped(file, train, cache or cache_home() / "il"), metadata)


def read_in_order(
    path: Path, count: int, overlap: str = "forbid", cache: Path | None = None
) -> IlTable:
    """The losses of a table for the ``count`` points, from 0, of a data set that is not known here:
    the first index is point 0, and so on. Otherwise as ``read_table``."""
    file = _file(path, "irreducible_losses")
    file.check_exists()
    metadata = _metadata(file)
    rows, first = _rows_and_first(file)
    if rows != count:
        raise file.refused(
            f"got a table of {rows} points, allowed the {count} points of the data, in its order"
        )
    train = (first, first + count)
    if metadata.variant != "cross-fit" and overlap != "allow":
        check_overlap(f"irreducible_losses {path}", metadata.holdout, train)
    return IlTable(0, _mapped(file, train, cache or cache_home() / "il"), metadata)


def _rows_and_first(file: FittedFile) -> tuple[int, int]:
    """Rows of a table, and the least index of its first ones (0 of none)."""
    with file.reading(pa.ArrowException):
        rows = pq.read_metadata(file.path).num_rows
    return rows, int(next(_row_groups(file))[0].min()) if rows else 0


def check_overlap(what: str, learnt: tuple[int, int], train: tuple[int, int]) -> None:
    """Raise IrreducibleLossError if a model learnt from points [start, stop) of ``train``."""
    if max(train[0], learnt[0]) < min(train[1], learnt[1]):
        raise IrreducibleLossError(
            f"{what}: its model learnt from points {list(learnt)}, which overlap the train split"
            f' {list(train)}; fit on a holdout or with --folds, or set il.overlap = "allow"'
        )


def _file(path: Path, key: str = "il.table") -> FittedFile:
    content = "Parquet with index int64, irreducible_loss float32 and its metadata"
    return FittedFile(path, key, "rhoctl il fit --out", content, IrreducibleLossError)


def _mapped(file: FittedFile, train: tuple[int, int], cache: Path) -> npt.NDArray[np.float32]:
    """The checked losses [stop - start] of a table, mapped from a file under ``cache``.

    The name of that file tells this table from earlier tables at the same path, whose files are
    removed. Two processes that write it at the same time write the same bytes.
    """
    status = file.path.stat()
    place = _digest(str(file.path.resolve()), *train)
    version = _digest(status.st_ino, status.st_size, status.st_mtime_ns)
    values = cache / f"{place}-{version}.f32"
    if not values.is_file():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with replacing(values) as beside:
                _write_values(file, train, beside)
                for older in cache.glob(f"{place}-*.f32"):
                    older.unlink(missing_ok=True)
        except OSError as error:
            raise file.refused(
                f"its losses cannot be kept under {cache} ({error}); set data.cache_dir to a"
                " folder with room"
            ) from None
    # Copy on write, as torch warns of read-only arrays; not a memmap, whose look-ups are slow.
    return np.asarray(np.memmap(values, np.float32, "c"))


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _write_values(table: FittedFile, train: tuple[int, int], values: Path) -> None:
    """Write a table's checked losses to the file ``values``."""
    count = train[1] - train[0]
    # Really written, not left as a hole: on a full disk a mapped hole would kill the process.
    with values.open("wb") as file:
        for first in range(0, count, STEP_ROWS):
            np.full(min(STEP_ROWS, count - first), np.nan, np.float32).tofile(file)
    losses = np.memmap(values, np.float32, "r+")
    _fill(table, train, losses)
    losses.flush()


def _fill(table: FittedFile, train: tuple[int, int], values: npt.NDArray[np.float32]) -> None:
    """Write the table's losses into ``values`` (all NaN); raise unless each point has a finite one.

    NaN in the table is stored as infinity, so an entry that is still NaN has no row. If there are
    as many rows as entries and no entry is NaN, no point has two rows.
    """
    start, stop = train
    rows = 0
    for index, losses in _row_groups(table):
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
        raise table.refused(
            f"got {rows} rows for the {stop - start} points of the train split, {missing} points"
            " missing; allowed one row a point; run 'rhoctl il fit' again"
        )
    if bad is not None:
        raise table.refused(
            f"irreducible_loss of index {bad} is not finite; allowed finite nats; run"
            " 'rhoctl il fit' again"
        )


def _row_groups(
    table: FittedFile,
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """(index [R], losses [R]) of successive rows, a bounded number at a time."""
    with table.reading(pa.ArrowException), pq.ParquetFile(table.path) as file:
        for batch in file.iter_batches(STEP_ROWS, columns=list(COLUMNS)):
            if batch["index"].null_count:
                raise ValueError("index has missing values")
            losses = batch["irreducible_loss"].to_numpy(zero_copy_only=False)
            yield batch["index"].to_numpy(), losses.astype(np.float32)


def _metadata(file: FittedFile) -> IlMetadata:
    """Where a table comes from, with its columns checked."""
    with file.reading(pa.ArrowException):
        schema = pq.read_schema(file.path)
        metadata = parse_metadata(IlMetadata, schema.metadata[METADATA_KEY.encode()])
        index, losses = (schema.field(name).type for name in COLUMNS)
        if index != pa.int64() or not pa.types.is_floating(losses):
            raise TypeError(f"got columns index {index}, irreducible_loss {losses}")
        if metadata.holdout[0] > metadata.holdout[1]:
            raise ValueError(f"got holdout {list(metadata.holdout)}")
    return metadata
