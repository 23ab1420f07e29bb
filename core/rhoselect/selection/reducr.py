"""Class-robust selection."""

from __future__ import annotations

import torch
from torch import Tensor

from rhoselect.selection.interface import Needs, ScoreFunction, ScoreInputs, State


class Reducr(ScoreFunction):
    """Reducible loss times the weight of its class, after REDUCR (Bankes et al. 2023).

    The weights grow by the multiplicative rule w_c ∝ w_c exp(eta L_c), L_c the mean loss of the
    class in the batch of a step; a class without a point there is taken at the batch's mean. REDUCR
    itself takes L_c from a holdout and an irreducible loss per class; here both are the run's own.
    """

    needs = Needs(il=True, logits=True)
    eta = 0.1

    def score(self, inputs: ScoreInputs) -> Tensor:
        labels = inputs.forward.labels
        assert labels is not None, "Needs.logits"
        reducible = inputs.forward.losses - inputs.irreducible_losses
        return inputs.state["class_weights"][labels] * reducible

    def initial_state(self, classes: int) -> State:
        return {"class_weights": torch.full((classes,), 1 / classes)}

    def next_state(self, state: State, labels: Tensor, losses: Tensor) -> State:
        weights = state["class_weights"]
        counts = labels.bincount(minlength=len(weights))
        sums = torch.zeros_like(weights).index_add(0, labels, losses)
        means = torch.where(counts > 0, sums / counts.clamp(min=1), losses.mean())
        return {"class_weights": (weights.log() + self.eta * means).softmax(0)}
