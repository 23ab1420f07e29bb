"""Keyed 64-bit hashes and permutations: order and noise that every process computes alike."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

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
