"""Micro-batches: the gradient of a batch in parts, with bits that do not depend on who computes
them or when."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rhoselect.nest import mapped
from rhoselect.types import Batch

Gradients = Sequence[Tensor | None]
"""One for each parameter; None for one that took no part."""


def micro_batch(batch: Batch, micro: int, count: int) -> Batch:
    """Rows ``micro``, ``micro`` + ``count``, … of ``batch``: the points come in order of score, and
    each part should have some of the first."""
    if count == 1:
        return batch
    rows, points = slice(micro, None, count), len(batch.indices)

    def part(tensor: Tensor) -> Tensor:
        return tensor[rows] if tensor.shape[:1] == (points,) else tensor

    return Batch(batch.indices[rows], mapped(batch.content, part))


def interleaved(parts: Sequence[Tensor]) -> Tensor:
    """Values [C] in the order of the batch from those of its micro-batches."""
    if len(parts) == 1:
        return parts[0]
    whole = torch.empty(sum(map(len, parts)), dtype=parts[0].dtype, device=parts[0].device)
    for micro, part in enumerate(parts):
        whole[micro :: len(parts)] = part
    return whole


class TreeSum:
    """The sum of 2^k gradients in one fixed tree, whose addition rounds: neighbours first, then
    their sums. 2^j devices with a part of the micro-batches each can compute the same bits.

    It holds k + 1 of them at most, and adds in place.
    """

    def __init__(self) -> None:
        self._sums = list[Gradients]()
        self._count = 0

    def add(self, gradients: Gradients) -> None:
        """Add the next ones, which belong to this sum from now on."""
        complete = self._count
        while complete & 1:
            pairs = zip(self._sums.pop(), gradients, strict=True)
            gradients = [_added(one, other) for one, other in pairs]
            complete >>= 1
        self._sums.append(gradients)
        self._count += 1

    @property
    def total(self) -> Gradients:
        """The sum of all 2^k."""
        (total,) = self._sums
        return total


def _added(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return one if other is None else other
    return one.add_(other)
