"""The types that cross a process or a package border.

A *version* of the weights is the number of optimizer steps completed when they were published: the
initial weights are version 0. A *window* is the set of n_B candidates that step ``window`` selects
from. Windows and steps count from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rhoselect.nest import Nest

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
PROXY = "proxy:"
"""The same of the network that scores in place of the target."""

Layout = Mapping[str, Tensor]
"""Name, shape and dtype of each tensor in a snapshot, as tensors without data (device "meta")."""

Stage = Literal["candidates", "shortlist"]
"""The part of a window that is scored: all its candidates, or a shortlist of the best of them,
which is scored again with newer weights."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """One unit of scoring work: score chunk ``chunk`` of ``window`` with the weights ``version``.

    ``positions`` [C] are set for a chunk of a shortlist. They are None for a chunk of the
    candidates, whose positions follow from the plan.
    """

    window: int
    chunk: int
    version: int
    positions: Positions | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ChunkScores:
    """The scores that a scorer pushes for one ticket.

    ``positions`` [C] uint64 and ``scores`` [C] float64 hold finite scores only; ``rejected`` [R]
    uint64 holds the positions whose score was NaN or infinite. ``features`` [C, F] float32 is the
    per-point payload of methods that pick points jointly (DivBS, JEST), else None.
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
    """The best K points of one stage of ``window``: score descending, then position ascending.

    All points were scored with the weights ``version``. ``positions`` [K] uint64; ``scores`` [K]
    float64, finite; ``features`` [K, F] float32, or None if the method uses none. K is what the
    caller asked for, or fewer if the stage holds fewer points.
    """

    window: int
    version: int
    positions: Positions
    scores: Scores
    features: Features | None = None


@dataclass(frozen=True, slots=True)
class QueueStats:
    """The state of a run's queue at one moment, and its counters since the run began.

    State: ``windows`` open; tickets ``waiting`` for a scorer; tickets ``leased`` to a scorer;
    ``points`` scored and held; ``oldest_version`` of the open windows (None: no window is open).

    Counters of pushes: ``accepted``; ``repeated`` (ignored: the chunk was done already); ``late``
    (ignored: the window was closed or not open, or had another version). Other counters:
    ``rejected`` points, whose score was NaN or infinite; ``reclaimed`` tickets, which `reap` took
    back from a scorer and made available again.

    ``server_bytes``: memory used by the queue server. ``server_limit_bytes``: its limit (0: no
    limit, or no server).
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
    """Points ready for a model: data-set ``indices`` [C] int64 on the host, and on the model's
    device their ``content``, which the task's ``collate`` makes of examples. That of a stored data
    set is the pair (inputs [C, ...], labels [C] int64)."""

    indices: Indices
    content: Nest

    @property
    def inputs(self) -> Any:
        """What a model is given: of a pair its first, of a dict all but "labels", else all."""
        if self.paired:
            return self.content[0]
        if isinstance(self.content, Mapping):
            return {name: each for name, each in self.content.items() if name != "labels"}
        return self.content

    @property
    def labels(self) -> Any:
        """What the output is compared with: the second of a pair, the "labels" of a dict; None of
        other content."""
        if self.paired:
            return self.content[1]
        return self.content.get("labels") if isinstance(self.content, Mapping) else None

    @property
    def paired(self) -> bool:
        """Whether the content is a pair (inputs, labels)."""
        return isinstance(self.content, tuple) and len(self.content) == 2


@dataclass(frozen=True)
class Snapshot:
    """The weights of one version, cast to the scoring dtype, and the selector's small state.

    ``tensors`` maps the names of parameters and buffers to tensors; the names of a score function's
    second network begin with ``REFERENCE``, those of a proxy with ``PROXY``. ``state`` maps names
    to small tensors, such as the class weights of REDUCR.
    """

    version: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Losses:
    """What a task computes for C points, on the model's device.

    ``losses`` [C] float32, greater = worse. Of a classifier also ``logits`` [C, K] float32 and
    ``labels`` [C] int64: score functions that use them need it. Of a task with a loss for each
    token also ``tokens`` [C, T] float32, those losses, and ``mask`` [C, T] bool: which of them
    count.
    """

    losses: Tensor
    logits: Tensor | None = None
    labels: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class ForwardOutput(Losses):
    """A replica's outputs for C points, on its device, without gradients.

    On request: ``features`` [C, F] float32, the inputs of the last layer and, if it has a bias, a
    column of ones: the gradient of a loss with respect to the layer is the outer product of
    (softmax - one-hot) and this row. ``passes`` [S, C, K] logits of S stochastic passes (dropout
    on), ``reference_losses`` [C] of the second network in the snapshot.
    """

    features: Tensor | None = None
    passes: Tensor | None = None
    reference_losses: Tensor | None = None


class Points(Protocol):
    """A source of points, read by data-set index."""

    far: bool
    """Whether a read may wait for a network. If so, callers use ``prefetch``."""

    def __len__(self) -> int: ...

    def read(self, indices: Indices, device: torch.device, epochs: Indices | None = None) -> Batch:
        """Read the points of ``indices`` [C], ready for the model on ``device``. With ``epochs``
        [C], points are augmented as in those epochs, if augmentation is configured."""
        ...

    def prefetch(self, indices: Indices) -> None:
        """Hint that ``indices`` [C] will be read soon."""
        ...
