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
_AGED = np.dtype([("score", "<f8"), ("member", ">u8"), ("version", ">u8")])


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


def pack_aged_points(positions: Positions, scores: Scores, version: int) -> bytes:
    """C times (score, member, version), 24 bytes each, of points scored with ``version``."""
    points = np.empty(len(positions), _AGED)
    points["score"] = scores + 0.0
    points["member"] = _ALL_ONES - positions
    points["version"] = version
    return points.tobytes()


def unpack_aged(packed: bytes) -> tuple[Positions, Positions]:
    """The positions [C] and versions [C] of members with a version, one after another."""
    members = np.frombuffer(packed, [("member", ">u8"), ("version", ">u8")])
    return _ALL_ONES - members["member"].astype(np.uint64), members["version"].astype(np.uint64)
