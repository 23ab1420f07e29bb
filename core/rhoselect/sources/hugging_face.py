"""Hugging Face data sets on disk (``save_to_disk``), read with pyarrow alone.

Layout: dataset_dict.json names the splits; each is a folder with state.json, which names its Arrow
files (in the streaming format), and dataset_info.json with the features. A single ``Dataset`` is
such a folder itself.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from rhoselect.errors import DataError, shortened
from rhoselect.sources.leftovers import Seen
from rhoselect.sources.source import Found, Options
from rhoselect.sources.table_columns import found_in
from rhoselect.sources.table_files import Part
from rhoselect.sources.table_labels import names_of_features

DICT, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"


def read_hugging_face(folder: Path, options: Options) -> Found:
    """The splits of a DatasetDict, or of a Dataset that has a column for them. Raises DataError."""
    if (folder / STATE).exists() and not (folder / DICT).exists():
        parts, folders = [Part(folder.name, None, _table(folder))], [folder]
    else:
        names = _json(folder / DICT).get("splits")
        if not isinstance(names, list) or not names or not all(map(_is_name, names)):
            raise DataError(
                f"source {folder}: got splits {shortened(repr(names))}, allowed a DatasetDict's"
                " list of names, such as train"
            )
        parts = [Part(name, name, _table(folder / name)) for name in names]
        folders = [folder / name for name in names]
    found = found_in(folder, parts, options, Seen())
    label = found.columns[-1]
    named = (names_of_features(_json(path / INFO).get("features"), label) for path in folders)
    return replace(found, class_names=found.class_names or next(filter(None, named), None))


def _is_name(name: object) -> bool:
    """Whether it names a folder, and none outside."""
    return isinstance(name, str) and name.replace("-", "_").isidentifier()


def _table(folder: Path) -> pa.Table:
    state = _json(folder / STATE)
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


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DataError(
            f"source {path}: missing or no JSON object; allowed the folder of a DatasetDict's"
            " save_to_disk, with splits train and test; for the Hub's files give kind parquet"
        )
    return value
