"""The irreducible-loss table: one float32 a point, in Parquet, tied to its data set.

Columns ``index`` int64 (data-set index) and ``irreducible_loss`` float32 (nats). The file's
metadata names the data set's fingerprint, the model and its weights, and the split it learnt from.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rhoselect.errors import IrreducibleLossError
from rhoselect.types import Indices

METADATA_KEY = b"rhoselect"


@dataclass(frozen=True)
class IlMetadata:
    """Where a table comes from. ``holdout`` = [start, stop) of the points its model learnt from."""

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
    path: Path, fingerprint: str, train: tuple[int, int], overlap: str = "forbid"
) -> IlTable:
    """Read the irreducible losses of the points ``train`` = [start, stop) of a data set.

    Raises IrreducibleLossError (one line) for a missing or unreadable file, another data set's
    fingerprint, missing or repeated indices, NaN or infinite losses, and a model that learnt from
    points of ``train`` unless ``overlap`` is "allow".
    """
    rows, metadata = _read(path)
    if metadata.fingerprint != fingerprint:
        raise IrreducibleLossError(
            f"il.table {path}: made for data set {metadata.fingerprint[:12]}, allowed"
            f" {fingerprint[:12]} (data.path); run 'rhoctl il fit' on this data set"
        )
    start, stop = train
    if overlap != "allow" and max(start, metadata.holdout[0]) < min(stop, metadata.holdout[1]):
        raise IrreducibleLossError(
            f"il.table {path}: its model learnt from points {list(metadata.holdout)}, which overlap"
            f' the train split {[start, stop]}; fit on a holdout or set il.overlap = "allow"'
        )
    index = rows["index"].to_numpy()
    losses = rows["irreducible_loss"].to_numpy().astype(np.float32)
    inside = (index >= start) & (index < stop)
    index, losses = index[inside], losses[inside]
    values = np.full(stop - start, np.nan, np.float32)
    values[index - start] = losses
    if len(index) != stop - start or len(np.unique(index)) != len(index):
        missing = stop - start - len(np.unique(index))
        raise IrreducibleLossError(
            f"il.table {path}: got {len(index)} rows for the {stop - start} points of the train"
            f" split, {missing} points missing; allowed one row a point; run 'rhoctl il fit' again"
        )
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0]) + start
        raise IrreducibleLossError(
            f"il.table {path}: irreducible_loss of index {bad} is not finite; allowed finite nats;"
            " run 'rhoctl il fit' again"
        )
    return IlTable(start, values, metadata)


def _read(path: Path) -> tuple[pa.Table, IlMetadata]:
    if not path.is_file():
        raise IrreducibleLossError(
            f"il.table {path}: no such file; make it with 'rhoctl il fit --data D --out {path}'"
        )
    try:
        rows = pq.read_table(path, columns=["index", "irreducible_loss"])
        stored = json.loads((rows.schema.metadata or {})[METADATA_KEY])
        stored["holdout"] = tuple(int(bound) for bound in stored["holdout"])
        metadata = IlMetadata(**stored)
        start, stop = metadata.holdout
        index, losses = (rows.schema.field(name).type for name in rows.column_names)
        assert index == pa.int64() and pa.types.is_floating(losses) and start <= stop
        assert rows["index"].null_count == 0, "index has missing values"
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise IrreducibleLossError(
            f"il.table {path}: not a table of 'rhoctl il fit' ({reason}); allowed Parquet with"
            " index int64, irreducible_loss float32 and its metadata; fit it again"
        ) from None
    return rows, metadata
