"""The encoding of points as little-endian bytes, for the Redis server, which only keeps them."""

from __future__ import annotations

import numpy as np

from rhoselect.types import Positions, Scores

POINT = np.dtype([("score", "<f8"), ("position", "<u8")])


def pack_positions(positions: Positions) -> bytes:
    """C positions, 8 bytes each."""
    return positions.astype("<u8").tobytes()


def unpack_positions(packed: bytes) -> Positions:
    """The positions [C]; inverse of `pack_positions`."""
    return np.frombuffer(packed, "<u8").astype(np.uint64)


def pack_points(positions: Positions, scores: Scores) -> bytes:
    """C times (score, position), 16 bytes each."""
    points = np.empty(len(positions), POINT)
    points["score"], points["position"] = scores, positions
    return points.tobytes()


def unpack_points(packed: bytes) -> tuple[Positions, Scores]:
    """The positions [C] and scores [C]; inverse of `pack_points`."""
    points = np.frombuffer(packed, POINT)
    return points["position"].astype(np.uint64), points["score"].astype(np.float64)
