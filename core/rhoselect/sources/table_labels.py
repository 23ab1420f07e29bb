"""Labels of a table: numbers, or words that name classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rhoselect.data.base import Labels
from rhoselect.data.manifest import Array
from rhoselect.errors import DataError, listed, shortened
from rhoselect.sources.table_rows import Rows, check_complete, trimmed

FEW_CLASSES = 20
HUB_KEY = b"huggingface"


def label_values(where: str, rows: Rows, name: str) -> pa.ChunkedArray:
    """The column as integers or as words, null where missing. Booleans become words.

    Raises DataError for floats that are no whole numbers and for other types.
    """
    column, t = rows.table.column(name), pa.types
    kind = column.type
    if t.is_large_string(kind) or t.is_boolean(kind):
        return trimmed(column.cast(pa.large_string()))
    if t.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)  # as pandas has them
        broken = pc.fill_null(pc.not_equal(column, pc.floor(column)), False).to_numpy()
        if broken.any():
            row = int(np.argmax(broken))
            raise DataError(
                f"{where}: {rows.place(row)}: got label {column[row]}, allowed whole numbers or"
                " names of classes"
            )
    if not (t.is_integer(kind) or t.is_floating(kind) or t.is_null(kind)):
        raise DataError(
            f"{where}: got labels of type {kind}, allowed integers, whole floats, booleans, or"
            " strings, which name classes"
        )
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise DataError(f"{where}: labels: {error}; allowed integers of 64 bits") from None


def labelled_splits(splits: Array, values: pa.ChunkedArray) -> set[str]:
    """The splits that have labels: not all missing or negative, as those of GLUE's test are."""
    if pa.types.is_integer(values.type):
        known = pc.fill_null(pc.greater_equal(values, 0), False)
    else:
        known = values.is_valid()
    return set(splits[known.to_numpy()].tolist())


def numbered(
    where: str, rows: Rows, values: pa.ChunkedArray, train: str, name: str
) -> tuple[Labels, list[str] | None]:
    """Labels [R] and the classes' names: words are numbered in the order of train's sorted ones.

    Raises DataError for missing labels, and for words that train does not have.
    """
    check_complete(where, rows, name, values)
    if pa.types.is_integer(values.type):
        return values.to_numpy(), None
    of_train = rows.splits == train
    names = sorted(pc.unique(values.filter(pa.array(of_train))).to_pylist())
    if len(names) > max(FEW_CLASSES, of_train.sum() / 2):
        raise DataError(
            f"{where}: got {len(names)} different labels in {of_train.sum()} rows, allowed names"
            f" of classes, which repeat; is {name!r} the label? give --columns INPUTS,LABEL"
        )
    numbers = pc.index_in(values, value_set=pa.array(names, values.type))
    if numbers.null_count:
        row = int(np.argmax(numbers.is_null().to_numpy()))
        word = shortened(str(values[row]), 40)
        raise DataError(
            f"{where}: {rows.place(row)}: got label {word!r}, which train does not have, allowed"
            f" {listed(names)}"
        )
    return numbers.to_numpy().astype(np.int64), names


def names_of_features(features: Any, label: str) -> list[str] | None:
    """The names that a Hugging Face data set's features give to the classes of a column."""
    feature = features.get(label) if isinstance(features, dict) else None
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return names
    return None


def names_in_schemas(schemas: Sequence[pa.Schema], label: str) -> list[str] | None:
    """As ``names_of_features``, from what ``datasets`` writes into a file's schema."""
    for schema in schemas:
        try:
            about = json.loads((schema.metadata or {}).get(HUB_KEY, b"{}"))
            names = names_of_features(about["info"]["features"], label)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if names is not None:
            return names
    return None
