"""Hugging Face data sets on disk (``DatasetDict.save_to_disk``), read with pyarrow alone.

Layout: dataset_dict.json names the splits; each is a folder with state.json, which names its Arrow
files (in the streaming format), and dataset_info.json with the features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from rhoselect.data.manifest import Array, Kind
from rhoselect.errors import DataError, listed, shortened
from rhoselect.importers.arrays import kind_of, shaped
from rhoselect.importers.leftovers import Seen
from rhoselect.importers.source import Found, Options, image_inputs, match_splits, unread_splits
from rhoselect.importers.tables import table_columns
from rhoselect.importers.text import tokenize

INPUTS = ("image", "img", "inputs", "pixel_values", "input_ids", "text", "sentence")
LABELS = ("label", "labels")


def read_hugging_face(folder: Path, options: Options) -> Found:
    """Images, texts (tokenized) or lists of numbers, with integer labels, of a DatasetDict.

    The columns are ``options.columns``, or the first of the usual names. A split whose labels are
    all negative, as GLUE's test, counts as absent. Raises DataError.
    """
    where = f"source {folder}"
    names = _json(folder / "dataset_dict.json").get("splits")
    if not isinstance(names, list) or not names or not all(map(_is_name, names)):
        raise DataError(
            f"{where}: got splits {shortened(repr(names))}, allowed a DatasetDict's list of names,"
            " such as train"
        )
    tables = {name: _table(folder / name) for name in names}
    inputs, label = options.columns or _columns(where, next(iter(tables.values())))
    labelled = {}
    for name, table in tables.items():
        _check(f"{where}, {name}", table, (inputs, label))
        if not (table.column(label).to_numpy() < 0).all():
            labelled[name] = table
    found = match_splits(labelled, where)
    splits: dict[str, tuple[Array, Array]] = {}
    text, seen = False, Seen()
    for ours, theirs in found.items():
        table = labelled[theirs].select([inputs, label]).rename_columns(["inputs", "label"])
        text = pa.types.is_string(table.schema.field("inputs").type)
        splits[ours] = _split(f"{where}, {theirs}", table, options, seen)
    kind: Kind = "tokens" if text else kind_of(splits["train"][0])
    shapes = {
        name: (shaped(f"{where}, {name}", x, kind, options.shape), y)
        for name, (x, y) in splits.items()
    }
    classes = _classes(folder / found["train"], label)
    vocabulary = options.vocabulary if text else None
    notes = [*unread_splits(names, found), *seen.notes()]
    return Found(kind, shapes, classes, vocabulary, notes=notes)


def _is_name(name: object) -> bool:
    """Whether it names a folder, and none outside."""
    return isinstance(name, str) and name.replace("-", "_").isidentifier()


def _split(where: str, table: pa.Table, options: Options, seen: Seen) -> tuple[Array, Array]:
    column, labels = table.column("inputs"), table.column("label").to_numpy()
    if pa.types.is_string(column.type):
        return tokenize(column.to_pylist(), options), labels
    if not pa.types.is_struct(column.type):
        return table_columns(where, table, options.shape, options.encoding is not None)
    files = []
    for row, value in enumerate(column.to_pylist()):
        if not isinstance(value.get("bytes"), bytes):
            raise DataError(f"{where}: row {row}: got no bytes of an image; embed them, then save")
        files.append((f"{where}: row {row}", value["bytes"]))
    return image_inputs(files, options, seen), labels


def _check(where: str, table: pa.Table, columns: Sequence[str]) -> None:
    for name in columns:
        if name not in table.column_names:
            raise DataError(
                f"{where}: got columns {listed(table.column_names)}, but {name!r} is missing;"
                " give --columns INPUTS,LABEL"
            )
        if table.column(name).null_count:
            raise DataError(f"{where}: got missing values in {name!r}, allowed none")
    label = table.schema.field(columns[1]).type
    if not pa.types.is_integer(label):
        raise DataError(f"{where}: got labels of type {label}, allowed integers (ClassLabel)")


def _columns(where: str, table: pa.Table) -> tuple[str, str]:
    """The first columns that have a usual name."""
    inputs = [name for name in INPUTS if name in table.column_names]
    labels = [name for name in LABELS if name in table.column_names]
    if not inputs or not labels:
        raise DataError(
            f"{where}: got columns {listed(table.column_names)}, none of them inputs and label"
            " by name; give --columns INPUTS,LABEL"
        )
    return inputs[0], labels[0]


def _table(folder: Path) -> pa.Table:
    state = _json(folder / "state.json")
    try:
        names = [Path(file["filename"]).name for file in state["_data_files"]]
        parts = [pa.ipc.open_stream(pa.memory_map(str(folder / n))).read_all() for n in names]
        table = pa.concat_tables(parts)
        table.validate(full=True)  # offsets, which would be followed out of the file
        return table
    except (KeyError, TypeError, OSError, pa.ArrowException) as error:
        raise DataError(
            f"source {folder}: not a split on disk: {shortened(str(error))}; save it again"
        ) from None


def _classes(folder: Path, label: str) -> int | None:
    """The number of names that the features give to ``label``, if they do."""
    features = _json(folder / "dataset_info.json").get("features")
    feature = features.get(label) if isinstance(features, dict) else None
    names = feature.get("names") if isinstance(feature, dict) else None
    return len(names) if isinstance(names, list) and names else None


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DataError(
            f"source {path}: missing or no JSON object; allowed the folder of a DatasetDict's"
            " save_to_disk, with splits train and test"
        )
    return value
