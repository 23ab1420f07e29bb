"""The encoding of points as bytes, for the Redis server.

A sorted-set member is the complement of a position (2**64 - 1 - position) as 8 big-endian bytes.
Read backwards, such a set is ordered by score descending and, where scores are equal, by member
descending, which is position ascending. Scores are sent to the server as 8-byte doubles and come
back as decimal text, from which the same 64 bits are parsed.
"""

from __future__ import annotations

import numpy as np

from rhoselect.types import Positions, Scores

_ALL_ONES = np.uint64(2**64 - 1)
_POINT = np.dtype([("score", "<f8"), ("member", ">u8")])


def pack_positions(positions: Positions) -> bytes:
    """The members of ``positions`` [C], one after another."""
    return (_ALL_ONES - positions).astype(">u8").tobytes()


def unpack_positions(packed: bytes) -> Positions:
    """The positions [C]; inverse of `pack_positions`."""
    return _ALL_ONES - np.frombuffer(packed, ">u8").astype(np.uint64)


def pack_points(positions: Positions, scores: Scores) -> bytes:
    """C times (score, member), 16 bytes each."""
    points = np.empty(len(positions), _POINT)
    points["score"] = scores + 0.0  # no -0.0: Redis may keep it as 0
    points["member"] = _ALL_ONES - positions
    return points.tobytes()


def unpack_scores(text: bytes) -> Scores:
    """The scores [C] in ``text``: decimal numbers separated by blanks."""
    return np.array([float(number) for number in text.split()], np.float64)
