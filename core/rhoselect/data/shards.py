"""The shards of a data set: which one holds a row, and their blocks, mapped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rhoselect.data.base import Span
from rhoselect.data.blocks import Block, open_shard
from rhoselect.data.manifest import Manifest, read_manifest
from rhoselect.errors import DataError
from rhoselect.types import Indices

Numbers = npt.NDArray[np.integer[Any]]
Located = tuple[Block, Numbers | slice, Indices]
"""(block, places [R] in the indices asked for, rows [R] in the block)."""


class Shards(ABC):
    """Shards in the order of the manifest. ``location`` is what messages call the data set."""

    def __init__(self, location: str, manifest: Manifest) -> None:
        self.location, self.manifest = location, manifest
        rows = [shard.rows for shard in manifest.shards]
        self.starts = np.concatenate(([0], np.cumsum(rows, dtype=np.int64)))
        """First row of each shard [S + 1]; the last is the number of rows."""

    @abstractmethod
    def path(self, number: int) -> Path:
        """A local file with the bytes of a shard."""

    @abstractmethod
    def blocks(self, number: int) -> Sequence[Block]:
        """The blocks of a shard, mapped and checked."""

    @abstractmethod
    def prefetch(self, numbers: Numbers) -> None:
        """A hint that these shards are needed soon."""

    @abstractmethod
    def check_room(self, wanted_bytes: int, reason: str) -> None:
        """Raises ConfigError if so many bytes of shards cannot be at hand together."""

    def overlapping(self, span: Span) -> slice:
        """The numbers of the shards that hold rows of ``span``."""
        first, last = np.searchsorted(self.starts, [span[0], span[1] - 1], side="right") - 1
        return slice(int(first), int(last) + 1)

    def numbers(self, indices: Indices) -> Numbers:
        """The shard [C] of each of ``indices`` [C]."""
        return np.searchsorted(self.starts, indices, side="right") - 1

    def located(self, indices: Indices) -> Iterator[Located]:
        """Where each of ``indices`` [C] is, block by block; a slice stands for all places."""
        for number, here in _groups(self.numbers(indices)):
            blocks = self.blocks(number)
            if len(blocks) == 1:
                yield blocks[0], here, indices[here] - blocks[0].start
                continue
            starts = np.array([block.start for block in blocks], np.int64)
            inside = np.searchsorted(starts, indices[here], side="right") - 1
            places = np.arange(len(indices))[here]
            for place, among in _groups(inside):
                yield blocks[place], places[among], indices[here][among] - starts[place]


class LocalShards(Shards):
    """A folder. All shards are mapped and checked at once; of the values, labels only."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder), read_manifest(folder))
        self._folder = folder
        self._blocks: list[list[Block]] = []
        for number, shard in enumerate(self.manifest.shards):
            path = self.path(number)
            if not path.is_file():
                raise DataError(
                    f"shard {path}: missing, but the manifest names it; import the data again"
                )
            start = int(self.starts[number])
            self._blocks.append(open_shard(path, str(path), shard, self.manifest, start))

    def path(self, number: int) -> Path:
        return self._folder / self.manifest.shards[number].file

    def blocks(self, number: int) -> Sequence[Block]:
        return self._blocks[number]

    def prefetch(self, numbers: Numbers) -> None:
        """Nothing: all are mapped."""

    def check_room(self, wanted_bytes: int, reason: str) -> None:
        """Nothing: they are on the disk."""


def _groups(keys: Numbers) -> Iterator[tuple[int, Numbers | slice]]:
    """Each distinct key of ``keys`` [C] with its places, ascending; a slice if it is the only."""
    if len(keys) == 0:
        return
    if (keys == keys[0]).all():
        yield int(keys[0]), slice(None)
        return
    order = np.argsort(keys, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1):
        yield int(keys[places[0]]), places
