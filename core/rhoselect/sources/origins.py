"""Where points come from, as readers tell it: tables of ``data.beside.ORIGINS``."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from rhoselect.data.beside import ORIGINS
from rhoselect.data.manifest import Array


def of_files(names: Sequence[str]) -> pa.Table:
    """Points that are files (or have keys) of their own."""
    return _table(pa.array(names, pa.large_string()), pa.nulls(len(names), pa.int64()))


def of_rows(names: Sequence[str], number: Array, row: Array) -> pa.Table:
    """Points that are rows: ``number`` [R] is the place of each one's file in ``names``."""
    return _table(pa.array(names, pa.large_string()).take(pa.array(number)), pa.array(row))


def _table(source: pa.Array, row: pa.Array) -> pa.Table:
    return pa.Table.from_arrays([source, row], schema=ORIGINS)
