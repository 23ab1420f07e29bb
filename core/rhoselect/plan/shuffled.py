"""The plan: a pure O(1) permutation of the points per epoch, and the windows cut from it.

A *plan position* p (unsigned 64 bit) names a candidate: epoch p // n, rank p % n. The index of rank
r in an epoch is a keyed permutation of 0..n-1, computed point by point, so a billion points need
no table: a generalised Feistel network over Z_a x Z_b with a, b near the square root of n, walked
along its cycle until it lands below n, which it nearly always does at once (Black & Rogaway,
"Ciphers with arbitrary finite domains", 2002).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rhoselect.errors import ConfigError
from rhoselect.hashing import key64, permute
from rhoselect.types import Indices, Positions

_U64 = npt.NDArray[np.uint64]
TOGETHER = 512
"""Points whose indices take hardly longer than one's: numpy's time goes by calls, not by points."""


@dataclass(frozen=True)
class Plan:
    """The candidate windows of a run.

    ``n`` points, ``n_B`` candidates a window, drawn without replacement within an epoch; a tail
    shorter than n_B is dropped from that epoch (another epoch leaves out other points). ``chunk``
    is the fixed slice of a window that one ticket scores. ``first_index`` is the data-set index of
    the first of the n points.
    """

    seed: int
    n: int
    n_B: int
    chunk: int
    first_index: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.n < self.n_B:
            raise ConfigError(
                f"selection.n_B: got {self.n_B}, allowed at most the {self.n} points of the train"
                " split; choose a smaller window or import more data"
            )
        assert self.n_B % self.chunk == 0

    @property
    def chunks(self) -> int:
        """Tickets a window."""
        return self.n_B // self.chunk

    def window(self, window: int) -> Positions:
        """Plan positions [n_B] of a window, ascending."""
        windows_per_epoch = self.n // self.n_B
        epoch, place = divmod(window, windows_per_epoch)
        start = epoch * self.n + place * self.n_B
        return np.arange(start, start + self.n_B, dtype=np.uint64)

    def chunk_positions(self, window: int, chunk: int) -> Positions:
        """Plan positions [chunk] of one ticket, ascending."""
        assert 0 <= chunk < self.chunks
        return self.window(window)[chunk * self.chunk : (chunk + 1) * self.chunk]

    def chunk_indices(self, window: int, chunk: int) -> Indices:
        """Data-set indices [chunk] of one ticket. Those of its neighbours are computed with it and
        kept for their tickets."""
        part, place = divmod(chunk * self.chunk, self._together)
        return _indices(self, window, part)[place : place + self.chunk].copy()

    def window_indices(self, window: int, positions: Positions) -> Indices:
        """Data-set indices [C] of ``positions`` [C] of one window: of a small one, those kept."""
        if self.n_B > self._together:
            return self.indices(positions)
        places = (positions - self.window(window)[0]).astype(np.intp)
        found: Indices = _indices(self, window, 0)[places]
        return found

    @property
    def _together(self) -> int:
        """Points whose indices are computed together: whole chunks."""
        return max(1, TOGETHER // self.chunk) * self.chunk

    def ahead(self, positions: Positions) -> Positions:
        """Plan positions [C] whose points are read a while after those of ``positions`` [C]."""
        return positions + np.uint64(self.n_B)

    def epochs(self, positions: Positions) -> Indices:
        """Epochs [C] of ``positions`` [C], from 0."""
        return (positions // np.uint64(self.n)).astype(np.int64)

    def indices(self, positions: Positions) -> Indices:
        """Data-set indices [C] of ``positions`` [C], which may span epochs."""
        epochs, ranks = np.divmod(positions, np.uint64(self.n))
        result = np.empty(len(positions), np.int64)
        for epoch in set(epochs.tolist()):
            here = epochs == epoch
            result[here] = self.shuffle(ranks[here], epoch)
        return self.first_index + result

    def shuffle(self, ranks: _U64, epoch: int) -> _U64:
        """The points of ``ranks`` [C] in one epoch: a permutation of 0..n-1."""
        return permute(ranks, self.n, key64(self.seed, epoch))


@lru_cache(maxsize=16)
def _indices(plan: Plan, window: int, part: int) -> Indices:
    """Data-set indices [C] of a part of a window."""
    size = plan._together
    return plan.indices(plan.window(window)[part * size : (part + 1) * size])
