"""The batch that a loop trains on, and how it is made from a data set's items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from rhoselect.errors import DataError
from rhoselect.importing import one_line
from rhoselect.types import Indices

Collate = Callable[[list[Any]], Any]
"""A list of items to a batch of them, as of torch's DataLoader."""


@dataclass(frozen=True)
class SelectionBatch:
    """The points of one step, in training order, on the model's device.

    ``indices`` [n_b] int64 of the data set, on the CPU; ``inputs`` [n_b, ...], or whatever
    ``collate_fn`` makes of the items of your own data; ``labels`` [n_b] int64, None if such
    items are no (inputs, label) pairs; ``weights`` [n_b] float32 to
    multiply the losses by: 1 unless the method samples.
    """

    step: int
    indices: Tensor
    inputs: Any
    labels: Tensor | None
    weights: Tensor


def collate(
    data: Any, places: Indices, join: Collate, device: torch.device
) -> tuple[Any, Tensor | None]:
    """Inputs and labels of the items at ``places`` [C] of a map-style data set.

    An item that is a pair is (inputs, label); any other is inputs alone. Raises DataError.
    """
    try:
        items = [data[place] for place in places.tolist()]
        paired = isinstance(items[0], tuple) and len(items[0]) == 2
        whole = moved(join(items), device)
    except Exception as error:  # the user's code: anything may come out of it
        raise DataError(
            f"data: items {places[:3].tolist()} … cannot be read and joined: {one_line(error)};"
            " allowed a map-style data set whose items collate_fn joins"
        ) from error
    return (whole[0], whole[1]) if paired else (whole, None)


def moved(tree: Any, device: torch.device) -> Any:
    """The tensors in dicts, lists and tuples, on ``device``."""
    if isinstance(tree, Tensor):
        return tree.to(device)
    if isinstance(tree, Mapping):
        return {key: moved(value, device) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(moved(value, device) for value in tree))
    if isinstance(tree, Sequence) and not isinstance(tree, str | bytes):
        return [moved(value, device) for value in tree]
    return tree


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """The tensors in dicts, lists and tuples."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        yield from chain.from_iterable(map(tensors_in, tree.values()))
    elif isinstance(tree, Sequence) and not isinstance(tree, str | bytes):
        yield from chain.from_iterable(map(tensors_in, tree))
