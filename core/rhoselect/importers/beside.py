"""The tables that an import leaves beside the shards: see ``data.beside``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rhoselect.data.fingerprint import file_hash
from rhoselect.data.manifest import Shard
from rhoselect.importers.columns import Columns
from rhoselect.sources.origins import of_rows

GROUP_ROWS = 1 << 16


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


def write_beside(folder: Path, name: str, table: pa.Table) -> Shard:
    """Write the table ``name`` beside the shards."""
    path = folder / f"{name}.parquet"
    pq.write_table(table, path, row_group_size=GROUP_ROWS)
    return Shard(file=path.name, rows=len(table), bytes=path.stat().st_size, sha256=file_hash(path))
