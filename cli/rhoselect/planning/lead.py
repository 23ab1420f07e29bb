"""Whether the irreducible losses of a run know more of its points than its model soon will.

The model learns for a short while from uniform batches, as at the start of a run. Then it, or the
proxy that learnt beside it, scores the candidates of the next windows. A reducible loss says
something only as long as the model's own losses are above the irreducible ones: their means are
compared. Of all figures tried this one told best whether RHO-LOSS gains at all
(docs/results/predict.md).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from rhoselect.compute import resolve_device, threads
from rhoselect.inputs import RunInputs
from rhoselect.planning.peers import scoring_replica
from rhoselect.planning.sharing import uniform_step
from rhoselect.trainer.build import new_learner

STEPS, WINDOWS = 100, 10
MOST_S = 12.0
"""What the steps may take, and what the forwards may."""
LEAST = 0.0
"""Below this share of the model's loss the irreducible losses lose (benchmarks/predict.py)."""


@dataclass(frozen=True)
class Lead:
    """Mean losses in nats of the same candidates: of the model after so many uniform ``steps``, and
    irreducible ones."""

    steps: int
    loss: float
    irreducible: float

    @property
    def nats(self) -> float:
        """By how much the irreducible losses are ahead."""
        return self.loss - self.irreducible
