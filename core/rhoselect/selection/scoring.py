"""Scoring: the pure function from (weights, points) to scores, shared by scorers and trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from rhoselect.data.il_table import IlTable
from rhoselect.hashing import key64, mix64
from rhoselect.selection.coreset import CoreSet
from rhoselect.selection.interface import Needs, ScoreFunction, ScoreInputs, State
from rhoselect.snapshots.base import Pieces
from rhoselect.types import Batch, ForwardOutput, Indices, Positions, Scores


class Forward(Protocol):
    """A replica of the model that scores."""

    def load(self, pieces: Pieces) -> None:
        """Copy a snapshot's weights, as they arrive, into the replica's own tensors."""
        ...

    def __call__(self, batch: Batch) -> ForwardOutput:
        """The forward output of C points, without gradients."""
        ...


@dataclass(frozen=True)
class Scoring:
    """A score function with the irreducible losses, or the core-set, that it may need."""

    function: ScoreFunction
    il: IlTable | None
    core_set: CoreSet | None = None

    @property
    def needs(self) -> Needs:
        return self.function.needs

    def __call__(
        self, indices: Indices, output: ForwardOutput | None, state: State
    ) -> tuple[Scores, npt.NDArray[np.float32] | None]:
        """Scores [C] float64 (exact images of the function's float32) and payload [C, F]."""
        il = None
        if self.needs.il:
            assert self.il is not None, "checked at start"
            il = torch.from_numpy(self.il.at(indices))
            il = il if output is None else il.to(output.losses.device)
        if output is not None:
            state = {name: value.to(output.losses.device) for name, value in state.items()}
        members = None
        if self.needs.core_set:
            assert self.core_set is not None, "checked at start"
            members = torch.from_numpy(self.core_set.at(indices))
            members = members if output is None else members.to(output.losses.device)
        inputs = ScoreInputs(indices, output, il, state, members)
        scores = self.function.score(inputs)
        features = self.function.payload(inputs)
        return (
            scores.detach().cpu().double().numpy(),
            None if features is None else features.detach().cpu().float().numpy(),
        )


def order(positions: Positions, scores: Scores) -> npt.NDArray[np.intp]:
    """Rows [C] by score descending, then position ascending: the one order of this project."""
    return np.lexsort((positions, -scores))


def gumbel(seed: int, window: int, indices: Indices) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise [C], a pure function of (seed, window, index).

    Adding T times it to scores and taking the top k draws k points without replacement with
    probabilities proportional to exp(score / T) (Kool et al. 2019, "Stochastic beams").
    """
    bits = mix64(indices.astype(np.uint64) ^ key64(seed, 0x67756D62656C, window))
    # 52 bits and a half: exact in float64, never 0 or 1, so that the noise is finite.
    uniform = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return np.asarray(-np.log(-np.log(uniform)))
