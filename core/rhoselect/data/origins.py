"""Where the points of a data set came from: a table beside its shards, which no run reads."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rhoselect.data.base import Origins
from rhoselect.data.blocks import broken
from rhoselect.data.manifest import Shard
from rhoselect.errors import shortened
from rhoselect.types import Indices

SCHEMA = pa.schema([("source", pa.large_string()), ("source_row", pa.int64())])


def read_origins(content: bytes, name: str, about: Shard) -> pa.Table:
    """The table in the bytes of a file that the manifest calls ``about``; raises DataError, which
    calls it ``name``, for other bytes than the manifest's."""
    if (got := hashlib.sha256(content).hexdigest()) != about.sha256:
        raise broken(name, f"sha256 {got}", about.sha256)
    try:
        table = pq.read_table(pa.BufferReader(content))
        if table.schema.equals(SCHEMA) and len(table) == about.rows:
            return table
    except (pa.ArrowException, OSError) as error:
        raise broken(name, f"no Parquet file ({shortened(str(error))})", "one") from None
    raise broken(name, f"{len(table)} rows of {table.schema.names}", f"{about.rows}")


def origins_of(table: pa.Table, indices: Indices) -> Origins:
    """The rows ``indices`` [C] of such a table."""
    taken = table.take(pa.array(indices))
    row = taken["source_row"]
    return Origins(
        taken["source"].to_numpy(),
        np.ma.MaskedArray(pc.fill_null(row, -1).to_numpy(), mask=row.is_null().to_numpy()),
    )
