"""Whether losses depend on weights and points alone, tried before a run starts.

Else a score would depend on which points were scored with it, and on who scored it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rhoselect.compute import enough_memory
from rhoselect.data import SplitPoints
from rhoselect.errors import ModelError
from rhoselect.models.replica import Replica
from rhoselect.types import Indices

POINTS = 16
ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}
"""By how much a loss may differ between batches, as a share of itself or of 1: far above what
rounding does to it."""


def check_pure(replica: Replica, points: SplitPoints, chunk: int) -> None:
    """Compute the losses of a few points again, in reverse order and in a smaller batch. Raise
    ModelError if they differ, or if none is finite. Torch's random state is used up."""
    indices = points.first(min(POINTS, chunk))
    count, seeds = len(indices), iter((1, 2, 3, 4))

    def losses(of: Indices) -> Tensor:
        torch.default_generator.manual_seed(next(seeds))
        with enough_memory("the forward at start"):
            return replica(points.read(of, replica.device)).losses.double().cpu()

    first = losses(indices)
    if not first.isfinite().any():
        raise ModelError(
            f"losses: got {first[0]} and no finite one of {count} points, allowed finite ones; look"
            " at the task's losses and at the first points"
        )
    if not torch.equal(first.nan_to_num(), losses(indices).nan_to_num()):
        raise ModelError(
            f"losses: got others when those of the same {count} points were computed again, allowed"
            " what depends on weights and points alone; use no random numbers outside of layers"
            " that are off in evaluation mode, and keep nothing between two calls"
        )
    if (by := _difference(replica, first, losses(indices[::-1].copy()).flip(0))) is not None:
        raise ModelError(
            f"losses: got others, by {by:.3g}, for {count} points in reverse order, allowed one"
            " loss a point in the order of the batch, whatever that is"
        )
    half = count // 2
    if not half or replica.batch_statistics:
        return
    alone, alike = losses(indices[half:]), bool((first == first[0]).all())
    by = _difference(replica, first[half:], alone)
    if by is not None or (alike and not torch.equal(first[half:], alone)):
        raise ModelError(
            f"losses: got others, by {by or 0:.3g}, for {count - half} points alone than among"
            f" {count}, allowed one loss a point that no other point changes; take no mean over the"
            " batch, and normalise nothing by it"
        )


def _difference(replica: Replica, one: Tensor, other: Tensor) -> float | None:
    """The greatest difference of losses, if it is far above rounding."""
    gaps = (one - other).nan_to_num().abs()
    if bool((gaps <= ROUNDING[replica.dtype] * one.nan_to_num().abs().clamp(min=1)).all()):
        return None
    return float(gaps.max())
