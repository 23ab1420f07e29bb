"""The interface of a selection method, the same for every transport and backend.

``score`` runs on the workers and must be pure. ``pick`` runs at the trainer after the pop, on the
best of one window: plain top n_b unless a method samples (importance weights) or picks jointly
(DivBS, JEST). Small selector state, such as REDUCR's class weights, travels with the snapshot.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor

from rhoselect.types import ForwardOutput, Indices, Scores

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Needs:
    """What a score function asks of the workers; what is not asked for is not computed.

    ``passes`` is the number S of stochastic passes. ``logits``: logits and labels, which only
    classifiers have; features and passes come with them.
    """

    forward: bool = True
    il: bool = False
    features: bool = False
    passes: int = 0
    reference: bool = False
    core_set: bool = False
    logits: bool = False

    @property
    def classifier(self) -> bool:
        """Whether only a task with logits and labels has what is asked for."""
        return self.logits or self.features or self.passes > 0


@dataclass(frozen=True)
class ScoreInputs:
    """One chunk of C candidates: ``indices`` [C], and what ``Needs`` asked for, else None.

    ``il`` [C] float32 in nats; ``core_set`` [C] bool. ``state`` was published with
    the weights that scored; it is empty when Needs.forward is False.
    """

    indices: Indices
    output: ForwardOutput | None = None
    il: Tensor | None = None
    state: State = field(default_factory=dict)
    core_set: Tensor | None = None

    @property
    def forward(self) -> ForwardOutput:
        """The forward output, of a function that needs it."""
        assert self.output is not None, "Needs.forward is False"
        return self.output

    @property
    def irreducible_losses(self) -> Tensor:
        """The irreducible losses [C], of a function that needs them."""
        assert self.il is not None, "Needs.il is False"
        return self.il


@dataclass(frozen=True)
class Shortlist:
    """N candidates after the pop, best first: ``features`` [N, F] is what ``payload`` gave."""

    indices: Indices
    scores: Scores
    features: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Picked:
    """Rows [n_b] of the shortlist in training order; ``weights`` [n_b] float32 of their losses."""

    rows: npt.NDArray[np.intp]
    weights: npt.NDArray[np.float32] | None = None


class ScoreFunction(ABC):
    """A selection method. Subclasses give ``score``; the rest has the plain top n_b as default."""

    needs = Needs()
    whole_window = False
    """True if ``pick`` must see every candidate; else workers push only what can be picked."""
    pointwise = False
    """True if a point's score does not depend on the other points of its chunk. Without a forward a
    window is then one chunk, whatever ``selection.chunk`` says: the scores are the same."""

    @abstractmethod
    def score(self, inputs: ScoreInputs) -> Tensor:
        """Scores [C], greater = sooner. NaN and infinite ones are rejected and counted."""

    def payload(self, inputs: ScoreInputs) -> Tensor | None:
        """Features [C, F] that ``pick`` wants of every candidate; None for most."""
        return None

    def pick(self, shortlist: Shortlist, n_b: int, rng: np.random.Generator) -> Picked:
        """The batch, of a shortlist of at least n_b; ``rng`` is seeded by (seed, window)."""
        return Picked(np.arange(n_b))

    def initial_state(self, classes: int) -> State:
        """The selector state before the first step."""
        return {}

    def next_state(self, state: State, labels: Tensor, losses: Tensor) -> State:
        """The state after a step on ``labels`` [n_b] that had ``losses`` [n_b], all on the CPU."""
        return state
