"""The shards of a data set: which one holds a row, and their blocks, mapped."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rhoselect.data.base import Span
from rhoselect.data.beside import ORIGINS, WORDS, read_beside
from rhoselect.data.blocks import Block, open_shard
from rhoselect.data.manifest import Manifest, Shard, read_manifest
from rhoselect.errors import DataError
from rhoselect.types import Indices

Numbers = npt.NDArray[np.integer[Any]]
Piece = tuple[Block, int, int]
"""(block, begin, end)."""


@dataclass(frozen=True)
class Located:
    """Where C points are: ``pieces`` says which block holds indices[begin:end], piece after piece.

    ``indices`` [C] are ascending, and ``places`` [C] tells where each stood when asked for; both
    are as asked for, and ``places`` is None, if one block holds them all.
    """

    indices: Indices
    places: Numbers | None
    pieces: Sequence[Piece]


class Shards(ABC):
    """Shards in the order of the manifest. ``location`` is what messages call the data set."""

    def __init__(self, location: str, manifest: Manifest) -> None:
        self.location, self.manifest = location, manifest
        rows = [shard.rows for shard in manifest.shards]
        self._starts = [0, *itertools.accumulate(rows)]

    @abstractmethod
    def path(self, number: int) -> Path:
        """A local file with the bytes of a shard."""

    @abstractmethod
    def content(self, name: str) -> bytes:
        """A small file beside the shards. Raises DataError, and WaitError of a store."""

    @cached_property
    def origins(self) -> pa.Table | None:
        """Where the points came from, if the data set knows it. Raises as ``content``."""
        return self._beside(self.manifest.origins, ORIGINS)

    @cached_property
    def words(self) -> Mapping[int, str]:
        """{token id: the word that it was made from}, {} where not known. Raises as ``content``."""
        table = self._beside(self.manifest.words, WORDS)
        if table is None:
            return {}
        return dict(zip(table["id"].to_pylist(), table["word"].to_pylist(), strict=True))

    def _beside(self, about: Shard | None, schema: pa.Schema) -> pa.Table | None:
        if about is None:
            return None
        content = self.content(about.file)
        return read_beside(content, f"{self.location}/{about.file}", about, schema)

    @abstractmethod
    def blocks(self, number: int) -> Sequence[Block]:
        """The blocks of a shard, mapped and checked."""

    far = False
    """Whether shards come over a network."""

    @abstractmethod
    def prefetch(self, numbers: Numbers) -> None:
        """A hint that these shards are needed soon."""

    @abstractmethod
    def check_room(self, wanted_bytes: int, reason: str) -> None:
        """Raises ConfigError if so many bytes of shards cannot be at hand together."""

    def overlapping(self, span: Span) -> slice:
        """The numbers of the shards that hold rows of ``span``."""
        return slice(bisect_right(self._starts, span[0]) - 1, bisect_left(self._starts, span[1]))

    def numbers(self, indices: Indices) -> Numbers:
        """The shard [C] of each of ``indices`` [C]."""
        return np.searchsorted(self._starts, indices, side="right") - 1

    def start(self, number: int) -> int:
        """The first row of a shard."""
        return self._starts[number]

    def located(self, indices: Indices, span: Span) -> Located:
        """The blocks that hold ``indices`` [C], shard by shard, so that few are needed at once.
        They lie in ``span``."""
        if len(indices) == 0:
            return Located(indices, None, [])
        first, last = int(indices.min()), int(indices.max())
        assert span[0] <= first and last < span[1], "index outside the split"
        pieces = self._pieces([first, last])
        if len(pieces) == 1:
            return Located(indices, None, [(pieces[0][0], 0, len(indices))])
        places = np.argsort(indices, kind="stable")
        ascending = indices[places]
        return Located(ascending, places, self._pieces(ascending.tolist()))

    def _pieces(self, ascending: list[int]) -> list[Piece]:
        pieces, begin = [], 0
        while begin < len(ascending):
            number = bisect_right(self._starts, ascending[begin]) - 1
            for block in self.blocks(number):
                end = bisect_left(ascending, block.start + len(block.labels), begin)
                if end > begin:
                    pieces.append((block, begin, end))
                begin = end
        return pieces


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
            blocks = open_shard(path, str(path), shard, self.manifest, self.start(number))
            self._blocks.append(blocks)

    def path(self, number: int) -> Path:
        return self._folder / self.manifest.shards[number].file

    def content(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise DataError(
                f"{self._folder / name}: {error.strerror}, but the manifest names it; copy it from"
                " where the data set came from, or import the data again"
            ) from None

    def blocks(self, number: int) -> Sequence[Block]:
        return self._blocks[number]

    def prefetch(self, numbers: Numbers) -> None:
        """Nothing: all are mapped."""

    def check_room(self, wanted_bytes: int, reason: str) -> None:
        """Nothing: they are on the disk."""
