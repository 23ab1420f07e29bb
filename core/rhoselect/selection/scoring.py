"""Scoring: the pure function from (weights, points) to scores, shared by scorers and trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rhoselect.data.il_table import IlTable
from rhoselect.hashing import key64, mix64
from rhoselect.selection.coreset import CoreSet
from rhoselect.selection.interface import Needs, ScoreFunction, ScoreInputs, State
from rhoselect.snapshots.base import Pieces
from rhoselect.types import Batch, Features, ForwardOutput, Indices, Positions, Scores

CPU = torch.device("cpu")


class Forward(Protocol):
    """A replica of the model that scores."""

    def load(self, pieces: Pieces) -> None:
        """Copy a snapshot's weights, as they arrive, into the replica's own tensors."""
        ...

    def __call__(self, batch: Batch) -> ForwardOutput:
        """The forward output of C points, without gradients."""
        ...


@dataclass(frozen=True)
class Prepared:
    """What a score function needs of C points beside their forward, on its device: irreducible
    losses [C], and whether each point is in the core-set [C]."""

    il: Tensor | None
    members: Tensor | None


@dataclass(frozen=True)
class Begun:
    """Scores [C] and payload [C, F] on their way to the host, from a GPU until ``arrival``."""

    scores: Tensor
    features: Tensor | None
    arrival: torch.cuda.Event | None

    def result(self) -> tuple[Scores, Features | None]:
        """Scores [C] float64 (exact images of the function's float32) and payload [C, F]."""
        if self.arrival is not None:
            self.arrival.synchronize()
        features = None if self.features is None else self.features.float().numpy()
        return self.scores.double().numpy(), features


@dataclass(frozen=True)
class Scoring:
    """A score function with the irreducible losses, or the core-set, that it may need."""

    function: ScoreFunction
    il: IlTable | None
    core_set: CoreSet | None = None

    @property
    def needs(self) -> Needs:
        return self.function.needs

    def prepare(self, indices: Indices, device: torch.device) -> Prepared:
        """What can be known of points [C] before their forward, which is on ``device``."""
        il = members = None
        if self.needs.il:
            assert self.il is not None, "checked at start"
            il = torch.from_numpy(self.il.at(indices)).to(device)
        if self.needs.core_set:
            assert self.core_set is not None, "checked at start"
            members = torch.from_numpy(self.core_set.at(indices)).to(device)
        return Prepared(il, members)

    def __call__(
        self, indices: Indices, output: ForwardOutput | None, state: State
    ) -> tuple[Scores, Features | None]:
        """Scores [C] and payload [C, F] of points [C]: see `Begun.result`."""
        device = CPU if output is None else output.losses.device
        return self.begin(indices, output, state, self.prepare(indices, device)).result()

    def begin(
        self, indices: Indices, output: ForwardOutput | None, state: State, prepared: Prepared
    ) -> Begun:
        """Compute scores and payload; a GPU may still do so when this returns."""
        if output is not None:
            state = {name: value.to(output.losses.device) for name, value in state.items()}
        inputs = ScoreInputs(indices, output, prepared.il, state, prepared.members)
        scores, payload = self.function.score(inputs).detach(), self.function.payload(inputs)
        features = None if payload is None else payload.detach()
        if not scores.is_cuda:
            return Begun(scores, features, None)
        # To pinned memory, behind this forward and before the next one.
        stream = torch.cuda.current_stream(scores.device)
        arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
        scores = scores.to("cpu", non_blocking=True)
        features = None if features is None else features.to("cpu", non_blocking=True)
        arrival.record(stream)
        return Begun(scores, features, arrival)


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
