"""Whether the irreducible losses of a run know more of its points than its model soon will.

The model learns for a short while from uniform batches, as at the start of a run. Then it, or the
proxy that learns beside it, scores the candidates of the next windows. Of the figures tried, the
distance of the two means told best whether RHO-LOSS gains (docs/results/predict.md).
"""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass

from rhoselect.compute import resolve_device, threads
from rhoselect.inputs import RunInputs
from rhoselect.planning.peers import scoring_replica
from rhoselect.planning.sharing import uniform_step
from rhoselect.trainer.build import new_learner
from rhoselect.trainer.learner import Learner

STEPS, WINDOWS = 100, 10
STEPS_S, FORWARDS_S = 12.0, 12.0  # what they may take
LEAST = 0.14
"""Nats, of docs/results/predict.json: with less of a lead RHO-LOSS lost to uniform batches."""


@dataclass(frozen=True)
class Lead:
    """Mean losses in nats of the same candidates: of the model after so many uniform ``steps``, and
    irreducible ones."""

    steps: int
    loss: float
    irreducible: float

    @property
    def nats(self) -> float:
        """How far the irreducible losses are ahead of the model."""
        return self.loss - self.irreducible

    @property
    def weak(self) -> bool:
        """Whether that is too little. It shrinks with more steps, so a few are enough for a yes."""
        return self.nats < LEAST

    def __str__(self) -> str:
        told = (
            f"irreducible losses: a mean of {self.irreducible:.4f} nats, the model has"
            f" {self.loss:.4f} after {self.steps} uniform steps, a lead of {self.nats:.4f}"
        )
        if self.weak:
            return (
                f"warning: {told}; below {LEAST} RHO-LOSS lost to uniform batches where it was"
                " measured (docs/results/predict.md): fit a better model of the target's kind, or"
                " one that learns from more points"
            )
        few = f"; after fewer than {STEPS} this says little" if self.steps < STEPS else ""
        return f"{told} (enough: {LEAST}){few}"


def lead(inputs: RunInputs) -> Lead | None:
    """That of a run; None if it has no table."""
    config, plan, table = inputs.config, inputs.plan, inputs.scoring.il
    if table is None:
        return None
    learner = new_learner(inputs, resolve_device(config.trainer.device, "trainer.device"))
    with threads(config.trainer.threads):
        steps = _learn(inputs, learner)
    replica, losses, irreducible = scoring_replica(inputs), list[float](), list[float]()
    replica.load(learner.pieces(replica.layout))
    began = time.perf_counter()
    with threads(config.scorer.threads):
        for window, chunk in itertools.product(range(steps, steps + WINDOWS), range(plan.chunks)):
            positions = plan.chunk_positions(window, chunk)
            indices = plan.indices(positions)
            batch = inputs.train.read(indices, replica.device, plan.epochs(positions))
            losses.append(replica(batch).losses.mean().item())
            irreducible.append(float(table.at(indices).mean()))
            if time.perf_counter() - began > FORWARDS_S:
                break
    return Lead(steps, statistics.fmean(losses), statistics.fmean(irreducible))


def _learn(inputs: RunInputs, learner: Learner) -> int:
    """Take ``STEPS`` uniform steps, or fewer of a shorter run or if time is over; how many."""
    began = time.perf_counter()
    for step in range(min(STEPS, inputs.config.trainer.steps)):
        uniform_step(inputs, learner, step)
        if time.perf_counter() - began > STEPS_S:
            break
    return step + 1
