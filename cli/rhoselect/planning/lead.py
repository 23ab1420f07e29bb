"""Whether the model of a run's irreducible losses knows more than the run's own model soon will.

The run's model learns for a short while from uniform batches, as at the start of a run. Then it, or
the proxy that learns beside it, guesses the labels of the candidates of the next windows. Of the
figures tried, the ratio of the labels that the two guess right told best whether RHO-LOSS gains
(docs/results/predict.md).
"""

from __future__ import annotations

import itertools
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
LEAST = 1.08
"""The ratio, of docs/results/predict.json, below which RHO-LOSS lost to uniform batches."""


@dataclass(frozen=True)
class Lead:
    """Shares of given labels guessed right: ``accuracy`` of the run's model after so many uniform
    ``steps``, and ``il_accuracy`` of that of the irreducible losses."""

    steps: int
    accuracy: float
    il_accuracy: float

    @property
    def ratio(self) -> float:
        """How many times as many labels the model of the irreducible losses guesses right."""
        return self.il_accuracy / max(self.accuracy, 1e-9)

    @property
    def weak(self) -> bool:
        """Whether that is too little. It shrinks with more steps, so a few are enough for a yes."""
        return self.ratio < LEAST

    def __str__(self) -> str:
        told = (
            f"irreducible losses: their model has {self.il_accuracy:.1%} of labels right,"
            f" {self.ratio:.2f} times as many as the run's ({self.accuracy:.1%}) after"
            f" {self.steps} uniform steps"
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
    """That of a run; None without a table that says how good its model is, as those of classifiers
    do."""
    config, plan, table = inputs.config, inputs.plan, inputs.scoring.il
    if table is None or table.metadata.accuracy is None:
        return None
    learner = new_learner(inputs, resolve_device(config.trainer.device, "trainer.device"))
    with threads(config.trainer.threads):
        steps = _learn(inputs, learner)
    replica, points, correct = scoring_replica(inputs), 0, 0
    replica.load(learner.pieces(replica.layout))
    began = time.perf_counter()
    with threads(config.scorer.threads):
        for window, chunk in itertools.product(range(steps, steps + WINDOWS), range(plan.chunks)):
            positions = plan.chunk_positions(window, chunk)
            indices, epochs = plan.indices(positions), plan.epochs(positions)
            output = replica(inputs.train.read(indices, replica.device, epochs))
            if output.logits is None or output.labels is None:
                return None
            correct += int((output.logits.argmax(1) == output.labels).sum())
            points += len(indices)
            if time.perf_counter() - began > FORWARDS_S:
                break
    return Lead(steps, correct / points, table.metadata.accuracy)


def _learn(inputs: RunInputs, learner: Learner) -> int:
    """Take ``STEPS`` uniform steps, or fewer of a shorter run or if time is over; how many."""
    began = time.perf_counter()
    for step in range(min(STEPS, inputs.config.trainer.steps)):
        uniform_step(inputs, learner, step)
        if time.perf_counter() - began > STEPS_S:
            break
    return step + 1
