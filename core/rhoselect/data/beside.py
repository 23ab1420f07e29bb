"""Tables beside the shards of a data set, which no run reads: where its points came from, and the
words that its token ids were made from."""

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

ORIGINS = pa.schema([("source", pa.large_string()), ("source_row", pa.int64())])
WORDS = pa.schema([("id", pa.int64()), ("word", pa.large_string())])


def read_beside(content: bytes, name: str, about: Shard, schema: pa.Schema) -> pa.Table:
    """The table in the bytes of a file that the manifest calls ``about``; raises DataError, which
    calls it ``name``, for other bytes than the manifest's."""
    if (got := hashlib.sha256(content).hexdigest()) != about.sha256:
        raise broken(name, f"sha256 {got}", about.sha256)
    try:
        table = pq.read_table(pa.BufferReader(content))
        if table.schema.equals(schema) and len(table) == about.rows:
            return table
    except (pa.ArrowException, OSError) as error:
        raise broken(name, f"no Parquet file ({shortened(str(error))})", "one") from None
    raise broken(name, f"{len(table)} rows of {table.schema.names}", f"{about.rows}")


def origins_of(table: pa.Table | None, indices: Indices) -> Origins:
    """The rows ``indices`` [C] of a table of origins; of none, unknown ones."""
    if table is None:
        return Origins.unknown(len(indices))
    taken = table.take(pa.array(indices))
    row = taken["source_row"]
    return Origins(
        taken["source"].to_numpy(),
        np.ma.MaskedArray(pc.fill_null(row, -1).to_numpy(), mask=row.is_null().to_numpy()),
    )
