"""Micro-batches: the gradient of a batch in parts, with bits that do not depend on who computes
them or when."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rhoselect.nest import mapped
from rhoselect.ranks.group import Gradients
from rhoselect.types import Batch, Losses


def micro_batch(batch: Batch, micro: int, count: int) -> Batch:
    """Rows ``micro``, ``micro`` + ``count``, … of ``batch``: the points come in order of score, and
    each part should have some of the first."""
    if count == 1:
        return batch
    rows, points = slice(micro, None, count), len(batch.indices)

    def part(tensor: Tensor) -> Tensor:
        return tensor[rows] if tensor.shape[:1] == (points,) else tensor

    return Batch(batch.indices[rows], mapped(batch.content, part))


class Buffers:
    """The buffers of a model that its forwards in training may change, such as running BatchNorm
    statistics. Every micro-batch starts from those before the step, and what ``count`` of them
    leave is averaged, so that it does not matter who computes which one. A batch that is not split
    changes them itself."""

    def __init__(self, model: nn.Module, count: int) -> None:
        self._count = count
        self._all = list(model.buffers()) if count > 1 else []
        self._before = [buffer.clone() for buffer in self._all]
        self.averaged = [buffer for buffer in self._all if buffer.is_floating_point()]

    def begin(self) -> None:
        """Have the next micro-batch start from what was before the step."""
        with torch.no_grad():
            for buffer, before in zip(self._all, self._before, strict=True):
                buffer.copy_(before)

    def parts(self) -> list[Tensor]:
        """The part of the averages that the last micro-batch gives."""
        return [buffer / self._count for buffer in self.averaged]

    def end(self, averages: Gradients) -> None:
        """Set the averages: the sums of the parts. The others stay as the last one left them."""
        with torch.no_grad():
            for buffer, average in zip(self.averaged, averages, strict=True):
                assert average is not None, "each micro-batch gave its part"
                buffer.copy_(average)


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


class Told:
    """What a step tells of its ``points``: each rank fills in the rows of its micro-batches. What
    it leaves changes nothing in a sum."""

    def __init__(self, points: int) -> None:
        self._points = points
        self.rows = list[Tensor]()

    def note(self, found: Losses, rows: slice) -> None:
        """Take the losses of a micro-batch and, of a classifier, which points it labels right."""
        values = [found.losses.detach()]
        if found.logits is not None and found.labels is not None:
            values.append((found.logits.detach().argmax(1) == found.labels).float())
        self.rows = self.rows or [each.new_full((self._points,), -0.0) for each in values]
        for whole, part in zip(self.rows, values, strict=True):
            whole[rows] = part

    @property
    def losses(self) -> Tensor:
        """Losses [n_b] in the order of the batch."""
        return self.rows[0]

    @property
    def correct(self) -> Tensor | None:
        """Which points [n_b] a classifier labels right; None of another task."""
        return self.rows[1].bool() if len(self.rows) > 1 else None


def _added(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return one if other is None else other
    return one.add_(other)
