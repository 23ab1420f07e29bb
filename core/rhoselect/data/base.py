"""What a data set is to the loops: named splits of points, each point with a global index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from rhoselect.errors import DataError, listed
from rhoselect.types import Batch, Indices

Labels = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Span = tuple[int, int]
"""[start, stop) of global indices."""


class Origins(NamedTuple):
    """Where C points came from: ``source`` [C] is the name of a file, a key or a split as the
    source has it, None where not known and of a point that the import made; ``row`` [C] which row
    of it, from 0, masked where there is none: a file or a key may be one point."""

    source: npt.NDArray[np.object_]
    row: np.ma.MaskedArray[Any, np.dtype[np.int64]]

    @classmethod
    def unknown(cls, count: int) -> Origins:
        """Those of ``count`` points of which nothing is known."""
        nothing = np.zeros(count, np.int64)
        return cls(np.full(count, None), np.ma.MaskedArray(nothing, mask=True))


class SplitPoints(ABC):
    """The points start … stop - 1 of a data set. Satisfies ``rhoselect.types.Points``.

    Indices are global (a point keeps its index whichever split it is read through) and must lie in
    the split.
    """

    far = False
    """Whether a read may wait for a network, so that ``prefetch`` pays."""

    labelled = True
    """Whether each point has a class, which ``labels`` gives."""

    def __init__(self, span: Span) -> None:
        self.start, self.stop = span

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def indices(self) -> Indices:
        """All indices [len], ascending."""
        return np.arange(self.start, self.stop, dtype=np.int64)

    def index_of(self, ranks: npt.NDArray[np.integer[Any]]) -> Indices:
        """Indices [C] of ``ranks`` [C] within the split (0 … len - 1), as a plan yields them."""
        return ranks.astype(np.int64) + self.start

    def first(self, count: int) -> Indices:
        """The first ``count`` indices, without a table of all."""
        return np.arange(self.start, min(self.start + count, self.stop), dtype=np.int64)

    @property
    def block_rows(self) -> int:
        """Points of a block: they are fetched together, and a streamed plan keeps them together."""
        return len(self)

    def check_room(self, rows: int, reason: str) -> None:
        """Raises ConfigError if the cache cannot hold the shards of ``rows`` points together."""
        return  # local points need no cache

    def prefetch(self, indices: Indices) -> None:
        """A hint that ``indices`` [C] are read soon. Returns at once and raises nothing."""
        return  # local points need no fetch

    def keep(self, count: int) -> None:
        """Points are read again soon after: keep what costs time to make of the last ``count``."""
        return  # nothing is made of raw points

    def hold(self, device: torch.device) -> None:
        """Hold all points on ``device``, so that later reads there take them from its memory, with
        the same bits. Raises ConfigError if they do not fit."""
        return  # only an Arrow data set of raw points can: see ``train_points``

    @abstractmethod
    def read(self, indices: Indices, device: torch.device, epochs: Indices | None = None) -> Batch:
        """The points of ``indices`` [C], ready for the model on ``device``; with ``epochs`` [C]
        as they look in those, if they are augmented."""

    def stored(self, indices: Indices) -> npt.NDArray[Any]:
        """Inputs [C, ...] as the data set holds them, for people to look at."""
        return np.asarray(self.read(indices, torch.device("cpu")).inputs)

    @abstractmethod
    def labels(self, indices: Indices) -> Labels:
        """Labels [C] int64, as trained on."""

    @abstractmethod
    def clean_labels(self, indices: Indices) -> Labels | None:
        """Labels [C] int64 before noise was put in, or None if they are unknown."""

    def relevant(self, indices: Indices) -> Mask | None:
        """Which of ``indices`` [C] are of a class kept in full, by true label; None if all are."""
        return None

    def ambiguous(self, indices: Indices) -> Mask:
        """Which of ``indices`` [C] were made of two points of different classes."""
        return np.zeros(len(indices), bool)

    def origins(self, indices: Indices) -> Origins:
        """Where ``indices`` [C] came from. Raises DataError."""
        return Origins.unknown(len(indices))

    @property
    def words(self) -> Mapping[int, str]:
        """{token id: the word that it was made from}, {} where not known. Raises DataError."""
        return {}

    def originals(self, indices: Indices) -> Indices:
        """The index [C] that each of ``indices`` [C] is a duplicate of; mostly itself."""
        return indices


class Dataset(Protocol):
    """A data set. ``classes`` is how many it has, or how many numbers its task wants of a model;
    ``class_names`` are theirs, if they have names; ``input_shape`` is that of one input as the
    model gets it, () of inputs that are not one tensor."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def classes(self) -> int: ...
    @property
    def class_names(self) -> Sequence[str] | None: ...
    @property
    def input_shape(self) -> tuple[int, ...]: ...
    @property
    def splits(self) -> Mapping[str, Span]: ...
    def split(self, name: str) -> SplitPoints:
        """The points of a split. Raises DataError for a name that is not in ``splits``."""
        ...


def span_of(name: str, splits: Mapping[str, Span]) -> Span:
    """[start, stop) of a split. Raises DataError for an unknown name."""
    if name not in splits:
        advice = "; make one with `data import --holdout FRACTION`" if name == "holdout" else ""
        raise DataError(f"split: got {name!r}, allowed one of {listed(splits)}{advice}")
    return splits[name]
