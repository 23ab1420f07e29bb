"""Sources that are tables: Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rhoselect.data.manifest import Array, Kind
from rhoselect.errors import DataError, listed, shortened
from rhoselect.importers.arrays import kind_of, reshaped, shaped
from rhoselect.importers.columns import ORDER, Splits
from rhoselect.importers.unpacking import check_ratio


def read_parquet(
    path: Path, shape: Sequence[int] | None, encoded: bool = False
) -> tuple[Kind, Splits]:
    """Columns ``inputs`` and ``label`` of train.parquet, [holdout.parquet,] test.parquet.

    ``path`` is their folder, or one file with a column ``split`` that holds those names. Inputs are
    binary (bytes of an image of ``shape`` [C, H, W]) or lists of numbers, as long in every row;
    lists are reshaped to ``shape`` if it is given. With ``encoded``, binary inputs are files, kept
    as an object array [R] of bytes. Raises DataError.
    """
    if path.is_dir():
        files = {s: path / f"{s}.parquet" for s in ORDER}
        tables = {s: _read_table(file) for s, file in files.items() if file.is_file()}
    else:
        whole = _read_table(path, "split")
        names = whole.column("split").to_pylist()
        if unknown := sorted({str(name) for name in names} - set(ORDER)):
            raise DataError(f"source {path}: got split {unknown[0]!r}, allowed {', '.join(ORDER)}")
        masks = {s: np.array([name == s for name in names]) for s in ORDER}
        tables = {s: whole.filter(pa.array(mask)) for s, mask in masks.items() if mask.any()}
    splits = {
        s: table_columns(f"source {path}, {s}", table, shape, encoded)
        for s, table in tables.items()
    }
    if "train" not in splits:
        raise DataError(f"source {path}: has no train split; allowed train.parquet, test.parquet")
    kind = kind_of(splits["train"][0])
    return kind, {
        s: (shaped(f"source {path}, {s}", x, kind, shape), y) for s, (x, y) in splits.items()
    }


def _read_table(path: Path, *more: str) -> pa.Table:
    needed = ["inputs", "label", *more]
    if not path.is_file():
        raise DataError(f"source {path}: no such file or folder")
    try:
        found = pq.read_metadata(path)
        groups = [found.row_group(number) for number in range(found.num_row_groups)]
        unpacked = sum(group.total_byte_size for group in groups)
        check_ratio(f"source {path}", path.stat().st_size, unpacked)
        table = pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"source {path}: not a readable Parquet file: {shortened(str(error))}"
        ) from None
    if missing := [name for name in needed if name not in table.column_names]:
        raise DataError(
            f"source {path}: got columns {listed(table.column_names)}, but {missing[0]!r} is"
            " missing" + ("; or give a folder of train.parquet, test.parquet" if more else "")
        )
    if any(table.column(name).null_count for name in needed):
        raise DataError(f"source {path}: got missing values, allowed none in {', '.join(needed)}")
    return table


def table_columns(
    where: str, table: pa.Table, shape: Sequence[int] | None, encoded: bool
) -> tuple[Array, Array]:
    """Inputs and labels of the columns ``inputs`` and ``label``, as ``read_parquet`` says."""
    label = table.column("label")
    if not pa.types.is_integer(label.type):
        raise DataError(f"{where}: got labels of type {label.type}, allowed integers")
    column = table.column("inputs")
    kind = column.type
    t = pa.types
    is_binary = t.is_fixed_size_binary(kind) or t.is_binary(kind) or t.is_large_binary(kind)
    if is_binary and encoded:
        blobs = np.empty(len(column), object)
        blobs[:] = column.to_pylist()
        return blobs, label.to_numpy()
    if is_binary:
        flat = np.frombuffer(b"".join(column.to_pylist()), np.uint8)
        lengths = pc.unique(pc.binary_length(column))
    elif (t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind)) and (
        t.is_integer(kind.value_type) or t.is_floating(kind.value_type)
    ):
        values = pc.list_flatten(column)
        if values.null_count:
            raise DataError(f"{where}: got missing values in inputs, allowed none")
        flat = values.to_numpy()
        lengths = pc.unique(pc.list_value_length(column))
    else:
        raise DataError(f"{where}: got inputs of type {kind}, allowed binary or lists of numbers")
    if len(lengths) > 1:
        raise DataError(f"{where}: got inputs of {len(lengths)} lengths, allowed one; pad them")
    rows = flat.reshape(len(column), len(flat) // max(len(column), 1))
    return reshaped(where, rows, shape), label.to_numpy()
