"""Parquet files: one, a folder with a file or more a split, the Hub's layout, or Hive's folders."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rhoselect.errors import DataError, shortened
from rhoselect.sources.leftovers import Seen
from rhoselect.sources.source import Found, Options
from rhoselect.sources.table_columns import found_in
from rhoselect.sources.table_files import read_parts
from rhoselect.sources.unpacking import check_ratio


def read_parquet(path: Path, options: Options) -> Found:
    """The splits of a file or folder. Raises DataError."""
    seen = Seen()
    parts = read_parts(path, (".parquet",), _table, seen)
    return found_in(path, parts, options, seen)


def _table(path: Path) -> pa.Table:
    try:
        found = pq.read_metadata(path)
        groups = [found.row_group(number) for number in range(found.num_row_groups)]
        unpacked = sum(group.total_byte_size for group in groups)
        check_ratio(f"source {path}", path.stat().st_size, unpacked)
        return pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"source {path}: not a readable Parquet file: {shortened(str(error))}"
        ) from None
