"""Active-learning baselines (as in Mindermann et al. 2022) with MC dropout.

S stochastic passes give probabilities p_s(y | x); their mean is the predictive distribution
p(y | x). All scores are in nats.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rhoselect.selection.interface import Needs, ScoreFunction, ScoreInputs

PASSES = 10


class Uncertainty(ScoreFunction):
    """A method on S = 10 stochastic passes; a subclass may ask for another number."""

    needs = Needs(passes=PASSES)

    def predictive_entropy(self, inputs: ScoreInputs) -> Tensor:
        """H[y | x] [C]: of the mean of the passes' probabilities."""
        return entropy(mean_log(log_probabilities(inputs)))

    def conditional_entropy(self, inputs: ScoreInputs) -> Tensor:
        """E_s H[y | x, s] [C]: the mean of the passes' entropies."""
        return entropy(log_probabilities(inputs)).mean(0)


class PredictiveEntropy(Uncertainty):
    """H[y | x]: prefers points that the model is unsure of, for whatever reason."""

    def score(self, inputs: ScoreInputs) -> Tensor:
        return self.predictive_entropy(inputs)


class ConditionalEntropy(Uncertainty):
    """E_s H[y | x, s]: prefers points that every pass is unsure of, such as ambiguous ones."""

    def score(self, inputs: ScoreInputs) -> Tensor:
        return self.conditional_entropy(inputs)


class Bald(Uncertainty):
    """BALD (Houlsby et al. 2011): H[y | x] - E_s H[y | x, s], what the passes disagree on."""

    def score(self, inputs: ScoreInputs) -> Tensor:
        return self.predictive_entropy(inputs) - self.conditional_entropy(inputs)


class LossMinusConditionalEntropy(Uncertainty):
    """BALD for known labels: the mean prediction's loss, -log p(y | x), in place of H[y | x]."""

    def score(self, inputs: ScoreInputs) -> Tensor:
        labels = inputs.forward.labels
        assert labels is not None, "Needs.passes"
        log_p = mean_log(log_probabilities(inputs))
        losses = -log_p.gather(1, labels[:, None]).squeeze(1)
        return losses - self.conditional_entropy(inputs)


def log_probabilities(inputs: ScoreInputs) -> Tensor:
    """log p_s(y | x) [S, C, K]."""
    passes = inputs.forward.passes
    assert passes is not None, "Needs.passes"
    return passes.log_softmax(2)


def mean_log(log_p: Tensor) -> Tensor:
    """The logarithm [C, K] of the mean probability over the passes of ``log_p`` [S, C, K]."""
    return torch.logsumexp(log_p, 0) - math.log(len(log_p))


def entropy(log_p: Tensor) -> Tensor:
    """The entropy [...] in nats of log-probabilities [..., K]."""
    return -(log_p.exp() * log_p.clamp(min=-1e30)).sum(-1)
