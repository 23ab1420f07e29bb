"""Which point stands where: a pure O(1) permutation per epoch, and the windows cut from it.

A *plan position* p (unsigned 64 bit) names a candidate: epoch p // n, rank p % n. The index of rank
r in an epoch is a keyed permutation of 0..n-1, computed point by point, so a billion points need
no table: a generalised Feistel network over Z_a x Z_b with a, b near the square root of n, walked
along its cycle until it lands below n, which it nearly always does at once (Black & Rogaway,
"Ciphers with arbitrary finite domains", 2002).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rhoselect.errors import ConfigError
from rhoselect.types import Indices, Positions

ROUNDS = 6
_U64 = npt.NDArray[np.uint64]


def mix64(x: _U64) -> _U64:
    """SplitMix64's finaliser on an array [C] of uint64: a bijection with random-looking output."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def key64(*parts: int) -> np.uint64:
    """One 64-bit key from any non-negative integers below 2**64; order matters."""
    key = np.zeros(1, np.uint64)
    for part in parts:
        key = mix64(key ^ np.array([part], np.uint64))
    return np.uint64(key[0])


def permute(ranks: _U64, n: int, key: np.uint64) -> _U64:
    """The image of ``ranks`` [C] (each < n) under the keyed permutation of 0..n-1."""
    columns = math.isqrt(n - 1) + 1
    a, b = np.uint64(columns), np.uint64(-(-n // columns))
    round_keys = mix64(np.arange(ROUNDS, dtype=np.uint64) ^ key)

    def encrypt(x: _U64) -> _U64:
        left, right = x % a, x // a
        for even, odd in zip(round_keys[::2], round_keys[1::2], strict=True):
            left = (left + _scramble(right ^ even)) % a
            right = (right + _scramble(left ^ odd)) % b
        return right * a + left

    image = encrypt(ranks)
    while (outside := image >= n).any():
        image[outside] = encrypt(image[outside])
    return image


def _scramble(x: _U64) -> _U64:
    """A round function: 31 well mixed bits of each x [C]. Cheaper than ``mix64``."""
    x = x * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(32))) * np.uint64(0x94D049BB133111EB)
    return x >> np.uint64(33)


@dataclass(frozen=True)
class Plan:
    """The candidate windows of a run.

    ``n`` points, ``n_B`` candidates a window, drawn without replacement within an epoch; a tail
    shorter than n_B is dropped from that epoch (another epoch leaves out other points). ``chunk``
    is the fixed slice of a window that one ticket scores.
    """

    seed: int
    n: int
    n_B: int
    chunk: int

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

    def ahead(self, positions: Positions) -> Positions:
        """Plan positions [C] whose points are read a while after those of ``positions`` [C]."""
        return positions + np.uint64(self.n_B)

    def epochs(self, positions: Positions) -> Indices:
        """Epochs [C] of ``positions`` [C], from 0."""
        return (positions // np.uint64(self.n)).astype(np.int64)

    def indices(self, positions: Positions) -> Indices:
        """Data-set indices [C] of ``positions`` [C], which may span epochs."""
        n = np.uint64(self.n)
        epochs, ranks = positions // n, positions % n
        result = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            result[here] = self.shuffle(ranks[here], int(epoch))
        return result

    def shuffle(self, ranks: _U64, epoch: int) -> _U64:
        """The indices of ``ranks`` [C] of one epoch: a permutation of 0..n-1."""
        return permute(ranks, self.n, key64(self.seed, epoch))
