"""Which points of its train split a run selected, and which it never selected."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rhoselect.data import SplitPoints
from rhoselect.inputs import RunInputs
from rhoselect.report.history import History
from rhoselect.report.metric import Floats
from rhoselect.report.runs import Ints, Run, mean
from rhoselect.types import Indices

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Shares:
    """A share of all points, of those selected at least once, and of the skipped ones: candidates
    that were never selected. None of no points."""

    all: float | None
    selected: float | None
    skipped: float | None


@dataclass(frozen=True)
class Coverage:
    """Of the N points of a train split of K classes: how many were ``seen`` as candidates and
    ``selected`` at least once; ``class_skipped`` [K] are shares of the seen points of a class, by
    the label trained on, that were never selected (NaN of none seen).

    ``noisy`` is the share of changed labels and ``relevant`` that of classes kept in full, None
    where not known. ``repeats`` and ``relevance`` [T] are shares of each batch: of points selected
    before (duplicates count as one), and of points of classes kept in full.
    """

    points: int
    seen: int
    selected: int
    class_skipped: Floats
    noisy: Shares | None
    relevant: Shares | None
    repeats: Floats
    relevance: Floats | None


def coverage_of(inputs: RunInputs, past: History, run: Run) -> Coverage:
    """What a run selected of its data set. Raises UserError if the data cannot be read."""
    train, chosen = inputs.train, run.selected
    labels = train.labels(train.indices)
    clean, relevant = train.clean_labels(train.indices), train.relevant(train.indices)
    rank = chosen.indices - train.start
    return Coverage(
        points=len(train),
        seen=int((past.seen > 0).sum()),
        selected=int((past.selected > 0).sum()),
        class_skipped=_by_class(labels, past, inputs.dataset.classes),
        noisy=None if clean is None else _shares(clean != labels, past),
        relevant=None if relevant is None else _shares(relevant, past),
        repeats=1 - chosen.share(first_times(train, chosen.indices)),
        relevance=None if relevant is None else chosen.share(relevant[rank]),
    )


def first_times(train: SplitPoints, indices: Indices) -> Mask:
    """Which of ``indices`` [S], in training order, were not there before; a duplicate of a point
    that was is no first time."""
    _, places = np.unique(train.originals(indices), return_index=True)
    first = np.zeros(len(indices), bool)
    first[places] = True
    return first


def _by_class(labels: Ints, past: History, classes: int) -> Floats:
    seen = np.bincount(labels[past.seen > 0], minlength=classes)
    skipped = np.bincount(labels[past.skipped], minlength=classes)
    return np.where(seen > 0, skipped / np.maximum(seen, 1), np.nan)


def _shares(flags: Mask, past: History) -> Shares:
    groups = (np.ones(len(flags), bool), past.selected > 0, past.skipped)
    return Shares(*(mean(flags[group].astype(np.float64)) for group in groups))
