"""Iterable data sets, whose points cannot be read by index, written to a folder once.

A plan draws from all points, and any scorer reads any of them by index: so they must lie somewhere.
The folder is one of Hugging Face's (``save_to_disk``), read by ``rhoselect.data.hugging_face``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from rhoselect.data.factories import refused
from rhoselect.data.fingerprint import file_hash
from rhoselect.data.repeatable import same
from rhoselect.errors import RhoError, listed
from rhoselect.importers.writer import check_destination
from rhoselect.importing import load_object, one_line
from rhoselect.sources.source import ORDER

FILE = "data-00000-of-00001.arrow"
GROUP = 256
"""Points in memory at once."""
TRIED = 16
"""First points of train that are read twice."""
Rows = Iterator[dict[str, Any]]


def spool(path: str, args: Mapping[str, Any], folder: Path, limit: int) -> dict[str, int]:
    """Write the first ``limit`` points of each split of ``factory(split=name, **args)`` to
    ``folder``; returns {split: points}.

    An example is a dict, which gives a column a key, a pair, which gives "inputs" and "labels", or
    token ids, which give "input_ids". Raises DataError, and then leaves nothing.
    """
    check_destination(folder)
    first, again = (list(islice(_rows(path, args, "train"), TRIED)) for _ in range(2))
    if not same(first, again):
        raise refused(
            path,
            "other points when the first ones of train were read again",
            "the same in each pass; shuffle and augment with a generator seeded in the factory",
        )
    there = next(each for each in folder.absolute().parents if each.exists())
    partial = there / f".{folder.name}.{os.getpid()}.partial"
    partial.mkdir()
    try:
        counts = {
            name: count
            for name in ORDER
            if (count := _write(partial / name, path, islice(_rows(path, args, name), limit)))
        }
        if missing := [name for name in ("train", "test") if name not in counts]:
            raise refused(path, f"{missing[0]}: no points", "one or more")
        (partial / "dataset_dict.json").write_text(json.dumps({"splits": list(counts)}), "utf-8")
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial)
        raise
    return counts


def _rows(path: str, args: Mapping[str, Any], name: str) -> Rows:
    """The examples of a split as rows; none of a holdout that is not there."""
    make, count = load_object(path, "data.dataset"), 0
    try:
        for example in make(split=name, **args):
            yield _row(example)
            count += 1
    except Exception as error:  # the user's code: anything may come out of it
        if name == "holdout" and not count and isinstance(error, ValueError | KeyError):
            return  # a generator says so late
        if isinstance(error, RhoError):
            raise type(error)(f"data.dataset {path!r}: {name}: item {count}: {error}") from None
        raise refused(
            path, f"{name}: item {count}: {one_line(error)}", "a data set to iterate over"
        ) from error


def _row(example: Any) -> dict[str, Any]:
    if isinstance(example, tuple) and len(example) == 2:
        example = dict(zip(("inputs", "labels"), example, strict=True))
    elif not isinstance(example, Mapping):
        example = {"input_ids": example}
    return {str(name): _plain(value) for name, value in example.items()}


def _plain(value: Any) -> Any:
    """A value as Arrow takes it: arrays of several dimensions as lists of arrays [D]."""
    if isinstance(value, Tensor):
        value = value.numpy(force=True)
    if isinstance(value, np.ndarray):
        return [*map(_plain, value)] if value.ndim > 1 else value if value.ndim else value.item()
    return value


def _write(folder: Path, path: str, rows: Rows) -> int:
    """Write the split that ``folder`` is named after; returns how many points it has. Without one
    nothing is written."""
    count, schema = 0, None
    with ExitStack() as stack:
        while group := list(islice(rows, GROUP)):
            table = _table(path, folder.name, count, group, schema)
            if schema is None:
                folder.mkdir()
                schema = table.schema
                writer = stack.enter_context(pa.ipc.new_stream(str(folder / FILE), schema))
            writer.write_table(table)
            count += len(group)
    if count:
        state = dict.fromkeys(("_format_columns", "_format_type"))
        state |= {"_format_kwargs": {}, "_output_all_columns": False, "_split": folder.name}
        state |= {"_data_files": [{"filename": FILE}], "_fingerprint": file_hash(folder / FILE)}
        (folder / "state.json").write_text(json.dumps(state), "utf-8")
        (folder / "dataset_info.json").write_text("{}", "utf-8")
    return count


def _table(
    path: str, split: str, start: int, group: list[dict[str, Any]], schema: pa.Schema | None
) -> pa.Table:
    """The rows from ``start`` on. Raises DataError for unlike ones."""
    names = list(group[0]) if schema is None else schema.names
    for place, row in enumerate(group, start):
        if row.keys() != set(names):
            got = f"columns {listed(row)} of item {place} of {split}"
            raise refused(path, got, f"{listed(names)} as in the first one")
    where = f"items {start} to {start + len(group) - 1} of {split}"
    try:
        table = pa.Table.from_pylist(group, schema)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        alike = "numbers, texts, tensors and lists of them, alike in all items"
        raise refused(path, f"{where}: {one_line(error)}", alike) from None
    if empty := [name for name in names if table[name].null_count]:
        raise refused(path, f"{where}: None in column {empty[0]}", "a value in each")
    return table
