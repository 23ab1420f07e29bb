"""Labels that leave gaps: numbered anew if that is wanted, or else told."""

from __future__ import annotations

from collections.abc import Mapping
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


def class_count(parts: Mapping[str, Columns], classes: int | None) -> int:
    """Classes: as given, or the greatest label + 1. Raises DataError for a label outside."""
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


def gap_notes(train: Labels, classes: int) -> list[str]:
    """A note on classes that no label [R] of train is of, if there are any."""
    there = np.unique(train)
    if len(there) == classes:
        return []
    return [
        f"{classes - len(there)} of {classes} classes have no point in train, whose labels are"
        f" {listed(there)}; --map-labels numbers the labels that occur from 0"
    ]
