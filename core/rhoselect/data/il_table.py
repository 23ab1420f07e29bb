"""The irreducible-loss table: one float32 a point, in Parquet, tied to its data set.

Columns ``index`` int64 (data-set index) and ``irreducible_loss`` float32 (nats), and those of
``token_losses`` where they were asked for. The file's metadata names the data set's fingerprint,
the model and its weights, and the split it learnt from.

A run looks losses up in a memory-mapped array. It is made from the table a row group at a time and
checked on the way, once on each machine. So the table may be larger than memory, and the processes
of a machine share its pages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rhoselect.config import cache_home
from rhoselect.data.mapped_losses import COLUMNS, mapped_losses, row_groups
from rhoselect.data.token_losses import TokenLosses, mapped_tokens, write_rows
from rhoselect.errors import IrreducibleLossError
from rhoselect.files import replacing
from rhoselect.fitted import METADATA_KEY, FittedFile, dump_metadata, parse_metadata
from rhoselect.types import Indices

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
    """Irreducible losses of the points start … start + len(values) - 1; ``tokens``: those of their
    tokens, if there are any."""

    start: int
    values: npt.NDArray[np.float32]
    metadata: IlMetadata
    tokens: TokenLosses | None = None

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
    rows = rows.replace_schema_metadata({METADATA_KEY: dump_metadata(table.metadata)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        if table.tokens is None:
            pq.write_table(rows, beside)
        else:
            write_rows(beside, rows, table.tokens)


def read_table(
    path: Path,
    fingerprint: str,
    train: tuple[int, int],
    overlap: str = "forbid",
    cache: Path | None = None,
    data: Mapping[str, str] | None = None,
    tokens: bool = False,
) -> IlTable:
    """The irreducible losses of the points ``train`` = [start, stop) of a data set, mapped.

    The array lies in a file under ``cache`` (default: that of ``data.cache_dir``), made and checked
    when the table is first read there, and anew for another file. So do the losses of ``tokens``,
    if they are asked for: a table without them is refused. Raises IrreducibleLossError (one
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
    cache = cache or cache_home() / "il"
    values = mapped_losses(file, train, cache)
    each = mapped_tokens(file, train, cache) if tokens else None
    return IlTable(train[0], values, metadata, each)


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
    return IlTable(0, mapped_losses(file, train, cache or cache_home() / "il"), metadata)


def _rows_and_first(file: FittedFile) -> tuple[int, int]:
    """Rows of a table, and the least index of its first ones (0 of none)."""
    with file.reading(pa.ArrowException):
        rows = pq.read_metadata(file.path).num_rows
    return rows, int(next(row_groups(file))[0].min()) if rows else 0


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
