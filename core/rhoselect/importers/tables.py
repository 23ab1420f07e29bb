"""Sources that are tables: NumPy archives and Parquet files."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rhoselect.data.manifest import Array, Kind
from rhoselect.errors import DataError
from rhoselect.importers.columns import ORDER, Splits
from rhoselect.importers.unpacking import check_members, check_ratio
from rhoselect.importing import one_line

UNREADABLE = (
    *(OSError, ValueError, EOFError, TypeError, MemoryError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What broken archives raise. NotImplementedError is zipfile's for a compression that it does not
know, RuntimeError for an encrypted member; sizes that a header makes up do not fit into memory."""


def read_npz(path: Path) -> tuple[Kind, Splits]:
    """Arrays x_train, y_train, x_test, y_test and perhaps x_holdout, y_holdout.

    uint8 inputs are images [N, H, W], [N, C, H, W] or [N, H, W, 3]; other integers are tokens
    [N, T]; floats are [N, D…], stored as float32. Raises DataError.
    """
    if not path.is_file():
        raise DataError(f"source {path}: no such file; allowed an .npz archive")
    try:
        check_members(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            _check_names(path, archive.files)
            arrays = {name: archive[name] for name in archive.files}
    except DataError:
        raise
    except UNREADABLE as error:
        raise DataError(f"source {path}: not a readable .npz archive: {one_line(error)}") from None
    for name, array in arrays.items():
        if array.ndim == 0:
            raise DataError(f"source {path}: {name}: got a single value, allowed an array of rows")
    kind = kind_of(arrays["x_train"])
    present = [split for split in ORDER if f"x_{split}" in arrays]
    return kind, {s: (shaped(arrays[f"x_{s}"], kind), arrays[f"y_{s}"]) for s in present}


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
    return kind, {s: (shaped(x, kind), y) for s, (x, y) in splits.items()}


def _check_names(path: Path, names: Sequence[str]) -> None:
    allowed = [f"{letter}_{split}" for split in ORDER for letter in "xy"]
    optional = {"x_holdout", "y_holdout"}
    missing = set(allowed) - set(names)
    if set(names) - set(allowed) or (missing and missing != optional):
        raise DataError(
            f"source {path}: got arrays {', '.join(names) or 'none'}, allowed"
            f" {', '.join(allowed)}, all but the holdout's needed"
        )


def kind_of(inputs: Array) -> Kind:
    """What inputs of this element type are. Raises DataError for what are no numbers."""
    if inputs.dtype == object:
        return "image"
    if inputs.dtype.kind not in "iuf":
        raise DataError(f"inputs: got elements of type {inputs.dtype}, allowed integers or floats")
    if inputs.dtype == np.uint8:
        return "image"
    return "tokens" if inputs.dtype.kind in "iu" else "float"


def shaped(inputs: Array, kind: Kind) -> Array:
    """Images as [N, C, H, W]; numbers as the type kept on disk. Others pass, to be refused."""
    if kind != "image":
        target = np.int64 if kind == "tokens" else np.float32
        with np.errstate(over="ignore"):  # becomes infinite, which the writer refuses by row
            return inputs.astype(target, copy=False) if kind_of(inputs) == kind else inputs
    if inputs.ndim == 3:
        return inputs[:, None]
    if inputs.ndim == 4 and inputs.shape[3] == 3 and inputs.shape[1] not in (1, 3):
        return np.moveaxis(inputs, 3, 1)
    return inputs


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
        text = " ".join(str(error).split())
        raise DataError(f"source {path}: not a readable Parquet file: {text}") from None
    if missing := [name for name in needed if name not in table.column_names]:
        raise DataError(
            f"source {path}: got columns {', '.join(table.column_names)}, but {missing[0]!r} is"
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
    return _reshape(where, flat, len(column), shape), label.to_numpy()


def _reshape(where: str, flat: Array, rows: int, shape: Sequence[int] | None) -> Array:
    size = len(flat) // max(rows, 1)
    if shape is None and flat.dtype == np.uint8:
        raise DataError(f"{where}: got bytes without a shape; give --shape, as in 3,32,32")
    if shape is not None and math.prod(shape) != size:
        raise DataError(
            f"{where}: got {size} values an input, allowed {math.prod(shape)} by --shape"
            f" {','.join(map(str, shape))}"
        )
    return flat.reshape(rows, *(shape or (size,)))
