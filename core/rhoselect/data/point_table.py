"""A Parquet file with one row a point: what a run knows of each point, for cleaning the data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rhoselect.files import replacing
from rhoselect.fitted import METADATA_KEY

SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("source", pa.large_string()),
        ("source_row", pa.int64()),
        ("label", pa.int64()),
        ("label_name", pa.large_string()),
        ("clean_label", pa.int64()),
        ("irreducible_loss", pa.float32()),
        ("last_loss", pa.float32()),
        ("times_seen", pa.int64()),
        ("times_selected", pa.int64()),
        ("step_last_selected", pa.int64()),
        ("suspected_noisy", pa.bool_()),
        ("redundant", pa.bool_()),
    ]
)


def write_points(
    path: Path, blocks: Iterable[Mapping[str, npt.NDArray[Any]]], metadata: Mapping[str, Any]
) -> None:
    """Write blocks of successive rows, a row group each, atomically.

    A block maps the columns' names to arrays [R]; masked entries of a masked array become null.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = SCHEMA.with_metadata({METADATA_KEY: json.dumps(dict(metadata))})
    with replacing(path) as beside, pq.ParquetWriter(beside, schema) as writer:
        for block in blocks:
            writer.write_table(pa.table(dict(block), schema=schema))
