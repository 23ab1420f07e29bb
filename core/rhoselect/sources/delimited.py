"""Tables as text: comma-separated (CSV) and tab-separated values (TSV)."""

from __future__ import annotations

import csv
import io
import zlib
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv

from rhoselect.errors import DataError, shortened
from rhoselect.sources.leftovers import Seen
from rhoselect.sources.source import Found, Options
from rhoselect.sources.table_columns import found_in
from rhoselect.sources.table_files import read_parts
from rhoselect.sources.unpacking import gunzip

HEAD_BYTES = 1 << 20
MOST_BLOCK_BYTES = 1 << 30
DELIMITERS = ",;\t"


def read_csv(path: Path, options: Options) -> Found:
    """A CSV file with a header, or a folder of them; quotes as in RFC 4180, in UTF-8, also .gz.

    The delimiter is the first of comma, semicolon and tab that the header has. Raises DataError.
    """
    return _read(path, options, ".csv", quotes=True)


def read_tsv(path: Path, options: Options) -> Found:
    """As ``read_csv``, with tabs; quotes have no meaning: they are part of the text."""
    return _read(path, options, ".tsv", quotes=False)


def _read(path: Path, options: Options, ending: str, quotes: bool) -> Found:
    def read(file: Path) -> pa.Table:
        return _table(file, DELIMITERS if quotes else "\t", quotes)

    seen = Seen()
    parts = read_parts(path, (ending, f"{ending}.gz"), read, seen)
    return found_in(path, parts, options, seen, words=True)


def _table(path: Path, delimiters: str, quotes: bool) -> pa.Table:
    """All columns as words. Raises DataError."""
    broken: list[pacsv.InvalidRow] = []

    def note(row: pacsv.InvalidRow) -> str:
        broken.append(row)
        return "error"

    try:
        content = gunzip(path) if path.suffix == ".gz" else path.read_bytes()
        _check_bytes(path, content)
        delimiter, names = _head(content, delimiters, quotes)
        table = pacsv.read_csv(
            pa.BufferReader(content),
            pacsv.ReadOptions(use_threads=False, block_size=_block_bytes(content)),
            pacsv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quotes else False,
                newlines_in_values=quotes,
                invalid_row_handler=note,
            ),
            pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string())),
        )
    except DataError:
        raise
    except (OSError, EOFError, zlib.error, ValueError, csv.Error, pa.ArrowException) as error:
        if broken:
            raise _ragged(path, broken[0]) from None
        text = shortened(str(error))
        no_text = isinstance(error, UnicodeDecodeError) or "UTF8" in text
        advice = "; make it UTF-8, as with iconv -f LATIN1 -t UTF-8" if no_text else ""
        raise DataError(f"source {path}: cannot be read as a table: {text}{advice}") from None
    names = [name.strip() for name in table.column_names]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(
            f"source {path}: got column {twice[0][:80]!r} twice, allowed once; the first line names"
            " the columns"
        )
    return table.rename_columns(names)


def _ragged(path: Path, row: pacsv.InvalidRow) -> DataError:
    """The error for a row of too many or too few values."""
    values = f"{row.actual_columns} value{'s' if row.actual_columns != 1 else ''}"
    return DataError(
        f"source {path}: row {row.number - 2}: got {values}, allowed {row.expected_columns}, one a"
        f" name of the first line: {shortened(row.text, 80)!r}; put a value that has a delimiter in"
        " it in quotes (in CSV), and close each quote"
    )


def _check_bytes(path: Path, content: bytes) -> None:
    """Raises DataError for a NUL byte, which Arrow's reader may misread without a word."""
    if (place := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, place) + 1
        raise DataError(
            f"source {path}: line {line}: got a NUL byte, allowed text in UTF-8; if this is UTF-16,"
            " make it UTF-8, as with iconv -f UTF-16 -t UTF-8"
        )


def _head(content: bytes, delimiters: str, quotes: bool) -> tuple[str, list[str]]:
    """The delimiter and the columns' names, by the first line."""
    head = content[:HEAD_BYTES].decode("utf-8-sig", "replace")
    line = next(iter(head.splitlines()), "")
    delimiter = next((sign for sign in delimiters if sign in line), delimiters[0])
    if not quotes:
        return delimiter, line.split(delimiter)
    return delimiter, next(csv.reader(io.StringIO(head), delimiter=delimiter), [])


def _block_bytes(content: bytes) -> int:
    """A block that holds the whole file: Arrow refuses a row that is longer than a block."""
    return min(max(len(content), 1 << 20), MOST_BLOCK_BYTES)
