"""Inputs of a table: texts, images, lists of numbers, or one column a feature."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rhoselect.data.manifest import Array
from rhoselect.errors import DataError, shortened
from rhoselect.sources.arrays import as_float32, not_stored, reshaped
from rhoselect.sources.leftovers import Seen
from rhoselect.sources.source import Options, image_inputs
from rhoselect.sources.table_rows import Rows, check_complete
from rhoselect.sources.text import tokenize

PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
"""How PNG and JPEG files begin."""
NAMES_OF_PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
ALLOWED = (
    "strings, images (bytes of files, or of pixels with --shape), lists of numbers, or numbers"
)


def are_texts(rows: Rows, names: Sequence[str]) -> bool:
    """Whether the inputs are one column of words."""
    kinds = [rows.table.column(name).type for name in names]
    return len(kinds) == 1 and bool(pa.types.is_large_string(kinds[0]))


def inputs_of(where: str, rows: Rows, names: Sequence[str], options: Options, seen: Seen) -> Array:
    """Inputs [R, ...] of one column by its type, or [R, F] float32 of F columns of numbers.

    Raises DataError for missing values and for what is of no type that is allowed.
    """
    for name in names:
        check_complete(where, rows, name, rows.table.column(name))
    column, t = rows.table.column(names[0]), pa.types
    kind = column.type
    if len(names) > 1 or _is_number(kind):
        return _features(where, rows, names, options.shape)
    if t.is_large_string(kind):
        return tokenize(_texts(where, names[0], column), options, seen)
    if t.is_struct(kind):
        return image_inputs(_embedded(where, rows, column), options, seen)
    if t.is_large_binary(kind) or t.is_fixed_size_binary(kind):
        return _of_bytes(where, rows, column, options, seen)
    if (t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind)) and (
        t.is_integer(kind.value_type) or t.is_floating(kind.value_type)
    ):
        values = pc.list_flatten(column)
        if values.null_count:
            raise DataError(f"{where}: got missing values in {names[0]!r}, allowed none")
        inputs = _even(where, values.to_numpy(), pc.list_value_length(column), options.shape)
        if inputs.dtype.kind != "f":
            return inputs
        return as_float32(inputs, lambda row: f"{where}: {rows.place(row)}")
    raise DataError(f"{where}: got inputs of type {kind} in {names[0]!r}, allowed {ALLOWED}")


def _texts(where: str, name: str, column: pa.ChunkedArray) -> list[str]:
    """The words of a column. Raises DataError for names of pictures, which are no texts."""
    words: list[str] = column.to_pylist()
    if words and all(word.lower().endswith(NAMES_OF_PICTURES) for word in words):
        raise DataError(
            f"{where}: got names of pictures in {name!r}, such as {shortened(words[0], 40)!r},"
            " allowed their bytes (Parquet); or sort the files into folders train/CLASS/ and"
            " test/CLASS/ and give kind image-folder"
        )
    return words


def _is_number(kind: pa.DataType) -> bool:
    t = pa.types
    tests = (t.is_integer, t.is_floating, t.is_decimal, t.is_boolean)
    return any(test(kind) for test in tests)


def _features(where: str, rows: Rows, names: Sequence[str], shape: Sequence[int] | None) -> Array:
    """Columns of numbers side by side, as ``shape`` if it is given; integers from 0 to 255 of a
    shape [C, H, W] are pixels."""
    table = rows.table.select(list(names))
    for field in table.schema:
        if not _is_number(field.type):
            raise DataError(_not_a_number(where, rows, field.name, len(names)))
    whole = all(pa.types.is_integer(field.type) for field in table.schema)
    kind = np.uint8 if whole and shape is not None and len(shape) == 3 else np.float32
    result = np.empty((len(table), len(names)), kind)
    for place, name in enumerate(names):
        column = table.column(name)
        if kind == np.uint8 and len(table):
            low, high = pc.min_max(column).as_py().values()
            if low < 0 or high > 255:
                raise DataError(
                    f"{where}: got {low if low < 0 else high} in {name!r}, allowed pixels from 0 to"
                    " 255 with --shape C,H,W"
                )
        result[:, place] = column.cast(pa.from_numpy_dtype(kind), safe=False).to_numpy()
        if not (finite := np.isfinite(result[:, place])).all():
            row = int(np.argmin(finite))
            raise not_stored(f"{where}: {rows.place(row)}, {name!r}", float(column[row].as_py()))
    return result if shape is None else reshaped(where, result, shape)


def _not_a_number(where: str, rows: Rows, name: str, columns: int) -> str:
    """What to say of a column that is one of several features and holds other than numbers."""
    column = rows.table.column(name)
    values = [str(value) for value in column.to_pylist()]
    row = next((r for r, value in enumerate(values) if not NUMBER.fullmatch(value.strip())), 0)
    return (
        f"{where}: {rows.place(row)}: got {shortened(values[row], 40)!r} in {name!r}, of type"
        f" {column.type}, allowed numbers in each of {columns} input columns; name those of"
        " numbers: --columns FEATURE,…,LABEL"
    )


def _embedded(where: str, rows: Rows, column: pa.ChunkedArray) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the images of a Hugging Face column."""
    for row, value in enumerate(column.to_pylist()):
        if not isinstance(value.get("bytes"), bytes):
            raise DataError(
                f"{where}: {rows.place(row)}: got no bytes of an image; embed them, then save"
            )
        yield f"{where}: {rows.place(row)}", value["bytes"]


def _of_bytes(
    where: str, rows: Rows, column: pa.ChunkedArray, options: Options, seen: Seen
) -> Array:
    """Image files, or pixels of ``options.shape``."""
    contents = column.to_pylist()
    pictured = bool(contents) and contents[0].startswith(PICTURES)
    if options.encoding is not None or (options.shape is None and pictured):
        names = (f"{where}: {rows.place(row)}" for row in range(len(contents)))
        return image_inputs(zip(names, contents, strict=True), options, seen)
    flat = np.frombuffer(b"".join(contents), np.uint8)
    return _even(where, flat, pc.binary_length(column), options.shape)


def _even(where: str, flat: Array, lengths: pa.ChunkedArray, shape: Sequence[int] | None) -> Array:
    """The values of all rows, which are as long each, as [R, *shape]; [R, length] without one."""
    if len(different := pc.unique(lengths)) > 1:
        raise DataError(f"{where}: got inputs of {len(different)} lengths, allowed one; pad them")
    rows = len(lengths)
    return reshaped(where, flat.reshape(rows, len(flat) // max(rows, 1)), shape)
