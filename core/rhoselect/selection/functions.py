"""The built-in score functions (Mindermann et al. 2022, section 3 and table 2)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rhoselect.errors import ConfigError
from rhoselect.importing import load_object, one_line
from rhoselect.selection.gradients import DivBS, GradientNorm, GradientNormSampling
from rhoselect.selection.infobatch import InfoBatch
from rhoselect.selection.interface import Needs, Picked, ScoreFunction, ScoreInputs, Shortlist
from rhoselect.selection.reducr import Reducr
from rhoselect.selection.uncertainty import (
    Bald,
    ConditionalEntropy,
    LossMinusConditionalEntropy,
    PredictiveEntropy,
)


class ReducibleLoss(ScoreFunction):
    """RHO-LOSS, eq. 3: the loss under the current weights minus the irreducible loss."""

    needs = Needs(il=True)

    def score(self, inputs: ScoreInputs) -> Tensor:
        return inputs.forward.losses - inputs.irreducible_losses


class ReducibleLossQuota(ReducibleLoss):
    """The same, but of each class at most twice an even share of the batch, 2 n_b / K, as long as
    there are points of others (docs/results/choices.md)."""

    needs = Needs(il=True, logits=True)
    whole_window = True

    def payload(self, inputs: ScoreInputs) -> Tensor:
        """The label of each point, and K: [C, 2]."""
        output = inputs.forward
        assert output.logits is not None and output.labels is not None, "Needs.logits"
        classes = torch.full_like(output.labels, output.logits.shape[1])
        return torch.stack([output.labels, classes], dim=1).float()

    def pick(self, shortlist: Shortlist, n_b: int, rng: np.random.Generator) -> Picked:
        assert shortlist.features is not None, "payload"
        labels, classes = shortlist.features[:, 0].astype(int), int(shortlist.features[0, 1])
        before = np.zeros(classes, int)  # better points of each class
        over = np.empty(len(labels), bool)
        for row, label in enumerate(labels):
            over[row] = before[label] >= max(1, 2 * n_b // classes)
            before[label] += 1
        return Picked(np.argsort(over, kind="stable")[:n_b])


class UpdatedReducibleLoss(ScoreFunction):
    """Eq. 2, before its last approximation: the irreducible-loss model also learns from the points
    trained on, so its loss is that given D_ho and D_t, and it travels with the weights."""

    needs = Needs(reference=True)

    def score(self, inputs: ScoreInputs) -> Tensor:
        reference = inputs.forward.reference_losses
        assert reference is not None, "Needs.reference is True"
        return inputs.forward.losses - reference


class Loss(ScoreFunction):
    """The loss under the current weights (Kawaguchi & Lu 2020): prefers noise and outliers."""

    def score(self, inputs: ScoreInputs) -> Tensor:
        return inputs.forward.losses


class IrreducibleLoss(ScoreFunction):
    """The negative irreducible loss: prefers points that are easy after holdout training."""

    needs = Needs(forward=False, il=True)
    pointwise = True

    def score(self, inputs: ScoreInputs) -> Tensor:
        return -inputs.irreducible_losses


class Uniform(ScoreFunction):
    """All alike. Ties go to the lower plan position and the plan is a random permutation, so the
    first n_b of a window are a uniform sample of it."""

    needs = Needs(forward=False)
    pointwise = True

    def score(self, inputs: ScoreInputs) -> Tensor:
        return torch.zeros(len(inputs.indices))


class SelectionViaProxy(ScoreFunction):
    """Uniform on the core-set of ``[svp]`` (Coleman et al. 2020): of each window the first n_b
    points in the core-set and, should there be fewer, others after them."""

    needs = Needs(forward=False, core_set=True)
    pointwise = True

    def score(self, inputs: ScoreInputs) -> Tensor:
        assert inputs.core_set is not None, "Needs.core_set"
        return inputs.core_set.float()


BUILT_IN: dict[str, type[ScoreFunction]] = {
    "reducible_loss": ReducibleLoss,
    "reducible_loss_quota": ReducibleLossQuota,
    "updated_reducible_loss": UpdatedReducibleLoss,
    "loss": Loss,
    "irreducible_loss": IrreducibleLoss,
    "uniform": Uniform,
    "infobatch": InfoBatch,
    "gradient_norm": GradientNorm,
    "gradient_norm_is": GradientNormSampling,
    "bald": Bald,
    "predictive_entropy": PredictiveEntropy,
    "conditional_entropy": ConditionalEntropy,
    "loss_minus_conditional_entropy": LossMinusConditionalEntropy,
    "svp": SelectionViaProxy,
    "divbs": DivBS,
    "reducr": Reducr,
}


def get_function(name: str) -> ScoreFunction:
    """A built-in by name, or the class (or factory) at 'module:object', called without arguments.

    Raises ConfigError.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]()
    if ":" not in name:
        raise ConfigError(
            f"selection.function: got {name!r}, allowed {', '.join(BUILT_IN)} or 'module:object'"
        )
    make = load_object(name, "selection.function")
    try:
        function = make()
    except Exception as error:  # the user's code: anything may come out of it
        raise ConfigError(
            f"selection.function {name}: failed with {one_line(error)}, called without arguments"
        ) from None
    if not isinstance(function, ScoreFunction):
        raise ConfigError(
            f"selection.function {name}: gave a {type(function).__name__}, allowed a"
            " rhoselect.selection.ScoreFunction; subclass it"
        )
    needs = function.needs
    if not needs.forward and (needs.features or needs.passes or needs.reference):
        raise ConfigError(
            f"selection.function {name}: got Needs(forward=False) with features, passes or a second"
            " network, allowed only with a forward"
        )
    return function
