"""Whether an item is the same when it is read again.

A point is scored and then trained on, by different processes: its item must depend on its index
alone. A random augmentation in a data set would train on another picture than was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

PLAIN = (int, float, str, bytes, type(None))


def same(one: Any, other: Any) -> bool:
    """Whether two items are equal: their tensors, arrays, pictures, numbers and texts, also in
    dicts, lists and tuples. NaN equals NaN; objects of other types count as equal."""
    if isinstance(one, PLAIN):
        return bool(type(one) is type(other) and (one == other or one != one))
    if isinstance(one, Tensor):
        if not isinstance(other, Tensor) or one.shape != other.shape or one.dtype != other.dtype:
            return False
        return bool(((one == other) | ((one != one) & (other != other))).all())
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if hasattr(one, "__array__") or hasattr(one, "__array_interface__"):  # the latter: Pillow's
        first, second = np.asarray(one), np.asarray(other)
        if first.dtype == object:
            return same(first.tolist(), second.tolist())
        return first.shape == second.shape and first.tobytes() == second.tobytes()
    return True
