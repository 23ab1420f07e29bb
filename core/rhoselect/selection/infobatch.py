"""InfoBatch (Qin et al., ICLR 2024): an epoch leaves out some of the points that are learnt best,
and the others of them count for more, so that the expected sum of its gradients stays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rhoselect.hashing import key64, mix64
from rhoselect.selection.interface import Needs, ScoreFunction, ScoreInputs
from rhoselect.types import Indices

DRAWS = 0x696E666F62  # what the key of an epoch's draws is for
Losses = npt.NDArray[np.float32]


class InfoBatch(ScoreFunction):
    """It scores nothing: ``rhoselect.selector.walk`` goes through the plan and drops points."""

    needs = Needs(forward=False)

    def score(self, inputs: ScoreInputs) -> Tensor:
        return torch.zeros(len(inputs.indices))


@dataclass(frozen=True)
class Pruning:
    """The rule of one epoch: points whose loss is below ``mean`` are dropped with probability
    ``r``. Its draws are a pure function of (seed, epoch, data-set index)."""

    seed: int
    epoch: int
    mean: float
    r: float

    def __call__(
        self, indices: Indices, losses: Losses
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Which of C points the epoch keeps [C], and the weights [C] of their losses. ``losses``
        [C] are their last ones, in nats, or NaN: such a point is kept."""
        bits = mix64(indices.astype(np.uint64) ^ key64(self.seed, DRAWS, self.epoch))
        draws = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53  # in [0, 1)
        below = losses < self.mean
        weights = np.where(below, 1 / (1 - self.r), 1.0).astype(np.float32)
        return ~(below & (draws < self.r)), weights


def mean_of_known(losses: Losses) -> float:
    """The mean of ``losses`` [N] that are not NaN; NaN if there are none, so that nothing is below.

    It is summed in float64, in which a mean of equal losses is one of them, and not above.
    """
    known = ~np.isnan(losses)
    count = int(known.sum())
    return float(losses.sum(dtype=np.float64, where=known)) / count if count else float("nan")
