"""The batch that a loop trains on, and how it is made from a data set's items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rhoselect.errors import DataError
from rhoselect.importing import one_line
from rhoselect.nest import Nest
from rhoselect.types import Batch, Indices

Collate = Callable[[list[Any]], Any]
"""A list of items to a batch of them, as of torch's DataLoader."""


@dataclass(frozen=True)
class SelectionBatch:
    """The points of one step, in training order, on the model's device.

    ``indices`` [n_b] int64 of the data set, on the CPU; ``inputs`` [n_b, ...], or whatever
    ``collate_fn`` makes of the items of your own data; ``labels`` [n_b] int64, None if such
    items are no (inputs, label) pairs and no service knows them; ``weights`` [n_b] float32 to
    multiply the losses by: 1 unless the method samples. ``scores`` [n_b] float64 are those of the
    weights that had taken ``version`` steps, and ``agreement``, of a step that
    ``selection.audit_every`` audits, is their rank correlation with those of the newest weights.
    """

    step: int
    indices: Tensor
    inputs: Any
    labels: Tensor | None
    weights: Tensor
    scores: Tensor | None = None
    version: int = -1
    agreement: float | None = None


def collate(data: Any, places: Indices, join: Collate, name: str = "data") -> Nest:
    """The items at ``places`` [C] of a map-style data set, joined, on the CPU.

    Items that are pairs are (inputs, label); any others are inputs alone. Raises DataError, which
    calls the data set ``name``.
    """
    try:
        items = [data[place] for place in places.tolist()]
        whole = join(items)
        paired = isinstance(items[0], tuple) and len(items[0]) == 2
        return (whole[0], whole[1]) if paired else whole
    except Exception as error:  # the user's code: anything may come out of it
        raise DataError(
            f"{name}: items {places[:3].tolist()} … cannot be read and joined: {one_line(error)};"
            " allowed a map-style data set whose items collate_fn joins"
        ) from error


def selection_batch(step: int, batch: Batch, weights: Tensor) -> SelectionBatch:
    """The points of ``batch`` as a loop gets them."""
    inputs, labels = batch.content if batch.paired else (batch.content, None)
    return SelectionBatch(step, torch.from_numpy(batch.indices), inputs, labels, weights)
