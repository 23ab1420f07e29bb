"""The few types that cross a process or a package border."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Positions = npt.NDArray[np.uint64]
"""Plan positions [C], uint64: a candidate's identity in the queue."""
Indices = npt.NDArray[np.int64]
"""Data-set indices [C], int64, stable within a data set."""
Scores = npt.NDArray[np.float64]
"""Scores [C], float64, greater = sooner."""
Features = npt.NDArray[np.float32]
"""Per-point payload [C, F], float32."""


REFERENCE = "reference."
"""Prefix of a second network's tensors in snapshots and checkpoints."""

Layout = Mapping[str, Tensor]
"""What a snapshot holds: tensors on the device "meta", which have name, shape and dtype alone."""

Stage = Literal["candidates", "shortlist"]
"""What of a window is scored: all its candidates, or a shortlist of them once more."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """One unit of scoring work: chunk ``chunk`` of window ``window`` at weights ``version``.

    ``positions`` [C] are given for a chunk of a shortlist; a candidates' chunk has its from the
    plan. Version -1: the newest weights there are (mode "stream").
    """

    window: int
    chunk: int
    version: int
    positions: Positions | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ChunkScores:
    """What a scorer pushes for one ticket.

    ``positions`` [C] and ``scores`` [C] hold finite scores only; ``rejected`` holds the positions
    whose score was NaN or infinite. ``features`` [C, F] float32 is the per-point payload of
    selectors that pick jointly (DivBS, JEST); None for the others.
    """

    positions: Positions
    scores: Scores
    rejected: Positions = field(default_factory=lambda: np.empty(0, np.uint64))
    features: Features | None = None

    def __post_init__(self) -> None:
        assert self.positions.shape == self.scores.shape and self.positions.ndim == 1
        assert np.isfinite(self.scores).all(), "non-finite scores belong in `rejected`"
        assert self.features is None or len(self.features) == len(self.positions)


@dataclass(frozen=True, slots=True)
class TopK:
    """The best of one complete window: score descending, then position ascending."""

    window: int
    version: int
    positions: Positions
    scores: Scores
    features: Features | None = None


@dataclass(frozen=True, slots=True)
class QueueStats:
    """A look at a run's queue: windows open, tickets waiting and leased, points held.

    ``server_bytes`` of memory are used by the queue server, of ``server_limit_bytes`` (0: no limit,
    or no server).
    """

    windows: int
    waiting: int
    leased: int
    points: int
    oldest_version: int | None
    accepted: int = 0
    repeated: int = 0
    late: int = 0
    rejected: int = 0
    reclaimed: int = 0
    server_bytes: int = field(default=0, compare=False)
    server_limit_bytes: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Batch:
    """Points ready for a model: ``inputs`` [C, ...] on the device, ``labels`` [C] int64."""

    indices: Indices
    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Snapshot:
    """The weights of one version, cast to the scoring dtype, and the selector's small state.

    ``tensors`` maps parameter (and buffer) names to tensors; a second network of a score function
    lives under the prefix ``reference.``. ``state`` maps names to small tensors, such as the class
    weights of REDUCR.
    """

    version: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ForwardOutput:
    """What a replica computed for C points (K classes), on its device, without gradients.

    ``losses`` [C] float32 in nats; ``logits`` [C, K] float32; ``labels`` [C] int64. On request:
    ``features`` [C, F] float32, the inputs of the last layer and, if it has a bias, a column of
    ones: the gradient of a loss with respect to the layer is the outer product of
    (softmax - one-hot) and this row. ``passes`` [S, C, K] logits of S stochastic passes (dropout
    on), ``reference_losses`` [C] of the second network in the snapshot.
    """

    losses: Tensor
    logits: Tensor
    labels: Tensor
    features: Tensor | None = None
    passes: Tensor | None = None
    reference_losses: Tensor | None = None


class Points(Protocol):
    """Where points come from, by data-set index."""

    far: bool
    """Whether a read may wait for a network, so that ``prefetch`` pays."""

    def __len__(self) -> int: ...

    def read(self, indices: Indices, device: torch.device, epochs: Indices | None = None) -> Batch:
        """The points of ``indices`` [C], ready for the model on ``device``; with ``epochs`` [C]
        as they look in those, if they are augmented."""
        ...

    def prefetch(self, indices: Indices) -> None:
        """A hint that ``indices`` [C] will be read soon."""
        ...
