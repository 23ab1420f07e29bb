"""Where points come from, on their way to disk: tables of ``data.origins.SCHEMA``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rhoselect.data.fingerprint import file_hash
from rhoselect.data.manifest import Array, Shard
from rhoselect.data.origins import SCHEMA
from rhoselect.importers.columns import Columns

FILE_NAME = "origins.parquet"
GROUP_ROWS = 1 << 16


def of_files(names: Sequence[str]) -> pa.Table:
    """Points that are files (or have keys) of their own."""
    return _table(pa.array(names, pa.large_string()), pa.nulls(len(names), pa.int64()))


def of_rows(names: Sequence[str], number: Array, row: Array) -> pa.Table:
    """Points that are rows: ``number`` [R] is the place of each one's file in ``names``."""
    return _table(pa.array(names, pa.large_string()).take(pa.array(number)), pa.array(row))


def joined_origins(
    parts: Mapping[str, Columns], read: Mapping[str, int], known: Mapping[str, pa.Table]
) -> pa.Table:
    """The origin of each row of ``parts``. ``read`` {split: rows} are the splits as they were read,
    in their order; rows of one that is not ``known`` are rows of that split."""
    whole = [
        known.get(name, of_rows([name], np.zeros(rows, np.int64), np.arange(rows)))
        for name, rows in read.items()
    ]
    origin = np.concatenate([part.origin for part in parts.values()])
    return pa.concat_tables(whole).take(pa.array(origin, mask=origin < 0))


def write_origins(folder: Path, table: pa.Table) -> Shard:
    """Write the file beside the shards."""
    path = folder / FILE_NAME
    pq.write_table(table, path, row_group_size=GROUP_ROWS)
    return Shard(file=path.name, rows=len(table), bytes=path.stat().st_size, sha256=file_hash(path))


def _table(source: pa.Array, row: pa.Array) -> pa.Table:
    return pa.Table.from_arrays([source, row], schema=SCHEMA)
