"""Labels that leave gaps: numbered anew if that is wanted, or else told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from rhoselect.data.base import Labels
from rhoselect.errors import DataError, listed
from rhoselect.importers.columns import Columns


def without_gaps(parts: Mapping[str, Columns]) -> tuple[dict[str, Columns], list[str]]:
    """The splits with labels 0 to K - 1 in place of the K labels that occur, in their order; and a
    note on them if any label changed."""
    values = np.unique(np.concatenate([part.labels for part in parts.values()]))
    made = {
        name: replace(part, labels=np.searchsorted(values, part.labels).astype(np.int64))
        for name, part in parts.items()
    }
    if (values == np.arange(len(values))).all():
        return made, []
    return made, [f"labels {listed(values)} are numbered 0 to {len(values) - 1}"]


def class_count(
    parts: Mapping[str, Columns], classes: int | None, names: Sequence[str] | None = None
) -> int:
    """Classes: as given, as many as ``names``, or the greatest label + 1. Raises DataError for a
    label below 0 or beyond, and for other names than ``classes``."""
    if classes is None and names is not None:
        classes = len(names)
    if names is not None and len(names) != classes:
        raise DataError(f"class names: got {len(names)}, allowed {classes}, one a class")
    least = {name: int(part.labels.min()) for name, part in parts.items()}
    for name, low in least.items():
        if low < 0:
            raise DataError(
                f"{name}: got label {low}, allowed 0 and up; number the classes from 0, as"
                " --map-labels does"
            )
    greatest = max(int(part.labels.max()) for part in parts.values())
    if classes is not None and greatest >= classes:
        raise DataError(
            f"labels: got {greatest}, allowed 0 to {classes - 1} with {classes} classes"
        )
    return greatest + 1 if classes is None else classes


def occurring_names(parts: Mapping[str, Columns], names: Sequence[str] | None) -> list[str] | None:
    """The names of the labels that occur, in their order: the numbers that they were, if they have
    no names and get other numbers."""
    values = np.unique(np.concatenate([part.labels for part in parts.values()])).tolist()
    if names is None and values == list(range(len(values))):
        return None
    known = dict(enumerate(names or ()))
    return [known.get(value, str(value)) for value in values]


def alike_notes(names: Sequence[str] | None) -> list[str]:
    """A note on classes whose names differ in upper case or white space alone, if there are any."""
    spellings: dict[str, list[str]] = {}
    for name in names or ():
        spellings.setdefault(" ".join(name.split()).casefold(), []).append(repr(name))
    alike = [" and ".join(several) for several in spellings.values() if len(several) > 1]
    if not alike:
        return []
    return [
        "classes that differ in upper case or spaces alone are kept apart:"
        f" {listed(alike)}; if they are the same, spell them alike in the source, import it again"
    ]


def gap_notes(train: Labels, classes: int) -> list[str]:
    """A note on classes that no label [R] of train is of, if there are any."""
    there = np.unique(train)
    if len(there) == classes:
        return []
    return [
        f"{classes - len(there)} of {classes} classes have no point in train, whose labels are"
        f" {listed(there)}; --map-labels numbers the labels that occur from 0"
    ]
