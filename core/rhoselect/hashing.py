"""Keyed 64-bit hashes and permutations: order and noise that every process computes alike."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

ROUNDS = 6
_U64 = npt.NDArray[np.uint64]
_ALL = 2**64 - 1
# Made once: a small array takes less time than the constant that it is multiplied with.
_GOLDEN, _FIRST, _SECOND = map(
    np.uint64, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
_27, _30, _31, _32, _33 = map(np.uint64, (27, 30, 31, 32, 33))


def mix64(x: _U64) -> _U64:
    """SplitMix64's finaliser on an array [C] of uint64: a bijection with random-looking output."""
    x = x + _GOLDEN
    x ^= x >> _30
    x *= _FIRST
    x ^= x >> _27
    x *= _SECOND
    x ^= x >> _31
    return x


def key64(*parts: int) -> np.uint64:
    """One 64-bit key from any non-negative integers below 2**64; order matters."""
    key = 0
    for part in parts:
        assert 0 <= part <= _ALL, "a part is 64 bits"
        key = _mix(key ^ int(part))
    return np.uint64(key)


def _mix(x: int) -> int:
    """``mix64`` of one number. Python's integers are several times as fast as arrays of one."""
    x = (x + 0x9E3779B97F4A7C15) & _ALL
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _ALL
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _ALL
    return x ^ (x >> 31)


def permute(ranks: _U64, n: int, key: np.uint64) -> _U64:
    """The image of ``ranks`` [C] (each < n) under the keyed permutation of 0..n-1."""
    columns = math.isqrt(n - 1) + 1
    a, b = np.uint64(columns), np.uint64(-(-n // columns))
    round_keys = [np.uint64(_mix(number ^ int(key))) for number in range(ROUNDS)]

    def encrypt(x: _U64) -> _U64:
        right, left = np.divmod(x, a)
        for even, odd in zip(round_keys[::2], round_keys[1::2], strict=True):
            left += _scramble(right ^ even)
            left %= a
            right += _scramble(left ^ odd)
            right %= b
        right *= a
        right += left
        return right

    image = encrypt(ranks)
    while (outside := image >= n).any():
        image[outside] = encrypt(image[outside])
    return image


def _scramble(x: _U64) -> _U64:
    """A round function: 31 well mixed bits of each x [C], in its place. Cheaper than ``mix64``."""
    x *= _FIRST
    x ^= x >> _32
    x *= _SECOND
    x >>= _33
    return x
