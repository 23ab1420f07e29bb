"""Whether an item is the same when it is read again.

A point is scored and then trained on, by different processes: its item must depend on its index
alone. A random augmentation in a data set would train on another picture than was chosen. Threads
read during training, so an item must not use the random numbers that all threads share either.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

REPEATABLE = (
    "items that depend on their index alone and draw from a generator of their own, such as"
    " torch.Generator().manual_seed(index)"
)
PLAIN = (int, float, str, bytes, type(None))


def fault(read: Callable[[], Any]) -> str | None:
    """What is wrong with an item that ``read`` gives, or None: "another item" if it differs when it
    is read again; else which shared random numbers it uses."""
    before = _shared_random_numbers()
    if not same(read(), read()):
        return "another item"
    after = _shared_random_numbers()
    used = [name for name, state in before.items() if after[name] != state]
    return f"an item that uses the random numbers of {used[0]}" if used else None


def _shared_random_numbers() -> dict[str, object]:
    """The states of the generators that all threads of this process share."""
    _, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy.random": (np.asarray(keys).tobytes(), *rest),
        "random": random.getstate(),
    }


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
