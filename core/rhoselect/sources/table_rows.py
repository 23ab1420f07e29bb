"""The tables of a source as one: its rows, each with the split and the place that it came from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rhoselect.data.manifest import Array
from rhoselect.errors import DataError, shortened
from rhoselect.sources.source import ALIASES, Options
from rhoselect.sources.table_files import Part

SPLIT = "split"


@dataclass(frozen=True)
class Rows:
    """R rows of a source: a table of its columns; the source's name of each row's split [R]; the
    number of the part that it is of, and which row of that it is [R]. ``names`` are the parts'."""

    table: pa.Table
    splits: Array
    part: Array
    row: Array
    names: Sequence[str]

    def taken(self, which: Array) -> Rows:
        """The rows that a mask [R] picks."""
        table = self.table.filter(pa.array(which))
        return Rows(table, self.splits[which], self.part[which], self.row[which], self.names)

    def place(self, row: int) -> str:
        """What messages call a row."""
        return f"{self.names[self.part[row]]}: row {self.row[row]}"


def joined(
    where: str, parts: Sequence[Part], columns: Sequence[str], options: Options, words: bool
) -> Rows:
    """The rows of all parts, with ``columns`` alone; where a part lacks one, it is missing there.

    With ``words``, all columns are strings, and those of numbers alone become numbers. Raises
    DataError.
    """
    more = [SPLIT] if all(SPLIT in part.table.column_names for part in parts) else []
    tables = [_selected(part.table, [*columns, *more]) for part in parts]
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(
            f"{where}: got tables of different types: {shortened(str(error))}; make them alike"
        ) from None
    sizes = [len(part.table) for part in parts]
    splits = _splits(where, parts, table, options)
    if words:
        table = pa.table({name: _numbers(table.column(name)) for name in columns})
    return Rows(
        table.select(list(dict.fromkeys(columns))),
        splits,
        np.repeat(np.arange(len(parts), dtype=np.int32), sizes),
        np.concatenate([np.arange(size) for size in sizes]),
        [part.name for part in parts],
    )


def _splits(where: str, parts: Sequence[Part], table: pa.Table, options: Options) -> Array:
    """The source's name of each row's split [R]: of its file, or in a column of that name."""
    if all(part.split is not None for part in parts):
        return np.repeat([str(part.split) for part in parts], [len(part.table) for part in parts])
    if SPLIT in table.column_names:
        names = np.array([str(name).strip() for name in table.column(SPLIT).to_pylist()])
        allowed = [name for aliases in ALIASES.values() for name in aliases]
        if unknown := sorted(set(names.tolist()) - set(allowed)):
            raise DataError(
                f"{where}: got split {shortened(unknown[0], 40)!r}, allowed {', '.join(allowed)} in"
                f" column {SPLIT!r}"
            )
        return names
    if options.test:
        return np.full(len(table), "train")
    raise DataError(
        f"{where}: got rows of no split; allowed a folder of files named train and test, a column"
        f" {SPLIT!r} with these words, or --test 0.2, which takes a random fifth for test"
    )


def _selected(table: pa.Table, names: Sequence[str]) -> pa.Table:
    columns = {}
    for name in names:
        there = name in table.column_names
        columns[name] = _plain(table.column(name)) if there else pa.nulls(len(table))
    return pa.table(columns)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without a wrapper: what an extension type stores, what a dictionary decodes to; strings and
    bytes of any layout as large ones."""
    t = pa.types
    if isinstance(column.type, pa.BaseExtensionType):
        storage = column.type.storage_type
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], storage)
    if t.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if t.is_string(column.type) or t.is_string_view(column.type):
        return column.cast(pa.large_string())
    if t.is_binary(column.type) or t.is_binary_view(column.type):
        return column.cast(pa.large_binary())
    return column


def trimmed(words: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without white space at the ends; those of nothing else become missing."""
    words = pc.utf8_trim_whitespace(words)
    return pc.if_else(pc.equal(words, ""), pa.scalar(None, words.type), words)


def _numbers(words: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whole numbers, or floats, if all words that are there are such; else the words."""
    known = trimmed(words)
    for kind in (pa.int64(), pa.float64()):
        with suppress(pa.ArrowInvalid):
            return known.cast(kind)
    return words


def check_complete(where: str, rows: Rows, name: str, column: pa.ChunkedArray) -> None:
    """Raises DataError for a missing value of ``column`` [R]."""
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise DataError(
            f"{where}: {rows.place(row)}: got missing values in {name!r} ({column.null_count} in"
            " all), allowed none; fill them or leave these rows out"
        )
