"""The losses of an irreducible-loss table in files that are mapped, made once on each machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rhoselect.files import replacing
from rhoselect.fitted import FittedFile

COLUMNS = ("index", "irreducible_loss")
STEP_ROWS = 1 << 20


def mapped_losses(file: FittedFile, train: tuple[int, int], cache: Path) -> npt.NDArray[np.float32]:
    """The checked losses [stop - start] of a table, mapped from a file under ``cache``."""
    path = kept(file, train, cache, "f32", lambda beside: _write_values(file, train, beside))
    # Copy on write, as torch warns of read-only arrays; not a memmap, whose look-ups are slow.
    return np.asarray(np.memmap(path, np.float32, "c"))


def kept(
    file: FittedFile,
    train: tuple[int, int],
    cache: Path,
    kind: str,
    write: Callable[[Path], object],
) -> Path:
    """The file under ``cache`` that ``write`` makes of a table, with the suffix ``kind``.

    Its name tells this table from earlier tables at the same path, whose files are removed. Two
    processes that write it at the same time write the same bytes.
    """
    status = file.path.stat()
    place = _digest(str(file.path.resolve()), *train)
    version = _digest(status.st_ino, status.st_size, status.st_mtime_ns)
    path = cache / f"{place}-{version}.{kind}"
    if not path.is_file():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with replacing(path) as beside:
                write(beside)
                for older in cache.glob(f"{place}-*.{kind}"):
                    older.unlink(missing_ok=True)
        except OSError as error:
            raise file.refused(
                f"its losses cannot be kept under {cache} ({error}); set data.cache_dir to a"
                " folder with room"
            ) from None
    return path


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _write_values(table: FittedFile, train: tuple[int, int], values: Path) -> None:
    """Write a table's checked losses to the file ``values``."""
    losses = blank(values, train[1] - train[0])
    _fill(table, train, losses)
    losses.flush()


def blank(path: Path, count: int) -> np.memmap[Any, np.dtype[np.float32]]:
    """``count`` NaN in the file ``path``, mapped to be written."""
    # Really written, not left as a hole: on a full disk a mapped hole would kill the process.
    with path.open("wb") as file:
        for first in range(0, count, STEP_ROWS):
            np.full(min(STEP_ROWS, count - first), np.nan, np.float32).tofile(file)
    return np.memmap(path, np.float32, "r+")


def _fill(table: FittedFile, train: tuple[int, int], values: npt.NDArray[np.float32]) -> None:
    """Write the table's losses into ``values`` (all NaN); raise unless each point has a finite one.

    NaN in the table is stored as infinity, so an entry that is still NaN has no row. If there are
    as many rows as entries and no entry is NaN, no point has two rows.
    """
    start, stop = train
    rows = 0
    for index, losses in row_groups(table):
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


def row_groups(
    table: FittedFile,
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """(index [R], losses [R]) of successive rows, a bounded number at a time."""
    with table.reading(pa.ArrowException), pq.ParquetFile(table.path) as file:
        for batch in file.iter_batches(STEP_ROWS, columns=list(COLUMNS)):
            if batch["index"].null_count:
                raise ValueError("index has missing values")
            losses = batch["irreducible_loss"].to_numpy(zero_copy_only=False)
            yield batch["index"].to_numpy(), losses.astype(np.float32)
