"""Tables in files: which file of a folder is of which split, and what its folders' names add.

Supported names: ``train.csv``, ``train-00000-of-00002.parquet`` (the Hub's),
``train/part-0.parquet``, ``split=train/label=cat/0.parquet`` (Hive's folders, each a column), or
one file of all splits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa

from rhoselect.errors import DataError, listed
from rhoselect.sources.leftovers import Seen
from rhoselect.sources.source import ALIASES

UNNAMED = "tables whose names tell no split, skipped"
HIVE = re.compile(r"([^=]+)=(.*)")
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
SPLIT = re.compile(
    rf"({'|'.join(name for names in ALIASES.values() for name in names)})([-_.]?\d[\w.-]*)?",
    re.IGNORECASE,
)
"""A split's name, perhaps with a number: ``validation_matched`` is another than ``validation``."""


@dataclass(frozen=True)
class Part:
    """A table of a source, the name of its file below the source, and its split's name, if the
    file's path tells it."""

    name: str
    split: str | None
    table: pa.Table


@dataclass(frozen=True)
class _Place:
    """What a path says: its split, the columns of Hive's folders, and its other folders."""

    path: Path
    name: str
    split: str | None
    hive: Mapping[str, str]
    folders: tuple[str, ...]


def read_parts(
    source: Path, endings: Sequence[str], read: Callable[[Path], pa.Table], seen: Seen
) -> list[Part]:
    """The tables of ``source``, a file or a folder of files with one of ``endings``, in the order
    of their paths. If the paths of some tell their split, the others are counted in ``seen`` and
    left out, as are hidden files and those whose name begins with "_". Raises DataError.
    """
    if source.is_file():
        return [Part(source.name, None, read(source))]
    if not source.is_dir():
        raise DataError(f"source {source}: no such file or folder")
    files = [path for path in sorted(source.rglob("*")) if _is_data(path, source, seen)]
    places = [_place(path, source) for path in files if path.name.lower().endswith(tuple(endings))]
    if not places:
        raise DataError(
            f"source {source}: got no file {', '.join(endings)}, allowed files such as"
            f" train{endings[0]} and test{endings[0]}"
        )
    named = [place for place in places if place.split is not None] or places
    seen.counts[UNNAMED] += len(places) - len(named)
    named.sort(key=lambda place: place.split != "train")  # so that a message names train's first
    if len(folders := {place.folders for place in named}) > 1:
        names = ("/".join(folder) or "." for folder in sorted(folders))
        raise DataError(
            f"source {source}: got tables in the folders {listed(names)}, allowed in one; give that"
            " folder as the source"
        )
    hive = _hive_columns(named)
    return [Part(p.name, p.split, _with_columns(read(p.path), hive[p.name])) for p in named]


def _is_data(path: Path, source: Path, seen: Seen) -> bool:
    """Whether it is a file that is not hidden, and no mark of Spark's ("_SUCCESS")."""
    if not path.is_file() or seen.is_leftover(path.relative_to(source).as_posix()):
        return False
    return not any(part.startswith("_") for part in path.relative_to(source).parts)


def _place(path: Path, source: Path) -> _Place:
    *folders, file = path.relative_to(source).parts
    split, hive, others = None, {}, []
    for folder in folders:
        if pair := HIVE.fullmatch(folder):
            hive[pair[1]] = unquote(pair[2])
        elif named := SPLIT.fullmatch(folder.partition(".")[0]):
            split = named[1].lower()
        else:
            others.append(folder)
    if SPLIT.fullmatch(hive.get("split", "")):
        split = hive.pop("split").lower()
    if named := SPLIT.fullmatch(file.partition(".")[0]):
        split = named[1].lower()
    return _Place(path, path.relative_to(source).as_posix(), split, hive, tuple(others))


def _hive_columns(places: Sequence[_Place]) -> dict[str, dict[str, pa.Scalar]]:
    """{file: {column: its value}}; a column is of integers if all its values are."""
    keys = {key for place in places for key in place.hive}
    values = {key: [place.hive.get(key, HIVE_NULL) for place in places] for key in keys}
    columns: dict[str, dict[str, pa.Scalar]] = {place.name: {} for place in places}
    for key, words in values.items():
        whole = all(re.fullmatch(r"-?\d{1,18}", word) for word in words if word != HIVE_NULL)
        kind = pa.int64() if whole else pa.large_string()
        for place, word in zip(places, words, strict=True):
            value = None if word == HIVE_NULL else int(word) if whole else word
            columns[place.name][key] = pa.scalar(value, kind)
    return columns


def _with_columns(table: pa.Table, values: Mapping[str, pa.Scalar]) -> pa.Table:
    for name, value in values.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.repeat(value, len(table)))
    return table
