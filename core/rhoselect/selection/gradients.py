"""Methods on the gradient of a loss with respect to the last layer.

For a linear last layer it is an outer product, g ⊗ h: g [K] = softmax - one-hot, and h [F] the
layer's inputs, with a one for its bias. So norms and inner products are those of g times those of
h, exactly, and no gradient [K, F] is ever formed.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rhoselect.selection.interface import Needs, Picked, ScoreFunction, ScoreInputs, Shortlist
from rhoselect.types import ForwardOutput

SPANNED = 1e-6
"""Of its norm, what is left of a gradient that those picked so far span, by rounding."""


def logit_gradients(output: ForwardOutput) -> Tensor:
    """g [C, K]: the gradient of each loss with respect to its logits."""
    logits, labels = output.logits, output.labels
    assert logits is not None and labels is not None, "Needs.features"
    return logits.softmax(1) - F.one_hot(labels, logits.shape[1])


class GradientNorm(ScoreFunction):
    """The norm of the gradient with respect to the last layer's weights and bias, ‖g‖ ‖h‖."""

    needs = Needs(features=True)

    def score(self, inputs: ScoreInputs) -> Tensor:
        output = inputs.forward
        assert output.features is not None, "Needs.features"
        norms: Tensor = logit_gradients(output).norm(dim=1) * output.features.norm(dim=1)
        return norms


class GradientNormSampling(GradientNorm):
    """Importance sampling by gradient norm (Katharopoulos & Fleuret 2018).

    n_b draws with replacement from the window's N points, with probabilities p in proportion to the
    norm and weights 1/(N p): the expected gradient of a step is that of the window's mean loss.
    """

    whole_window = True

    def pick(self, shortlist: Shortlist, n_b: int, rng: np.random.Generator) -> Picked:
        norms = shortlist.scores
        points, total = len(norms), norms.sum()
        p = norms / total if total > 0 else np.full(points, 1 / points)
        rows = rng.choice(points, n_b, p=p)
        return Picked(rows, (1 / (points * p[rows])).astype(np.float32))


class DivBS(GradientNorm):
    """Diversified batch selection (Hong et al. 2024, "orthogonalized representativeness").

    Picks greedily the point whose gradient, made orthogonal to those picked so far and scaled to
    length 1, has the greatest product with the sum of the window's gradients: what many points want
    and no picked one gives. Once the picks span the sum it begins anew with the points left.
    """

    whole_window = True

    def payload(self, inputs: ScoreInputs) -> Tensor:
        """K, g [K] and h [F] of each point: [C, 1 + K + F]."""
        output = inputs.forward
        assert output.features is not None, "Needs.features"
        gradients = logit_gradients(output)
        classes = torch.full_like(output.losses, gradients.shape[1])[:, None]
        return torch.cat([classes, gradients, output.features], dim=1)

    def pick(self, shortlist: Shortlist, n_b: int, rng: np.random.Generator) -> Picked:
        assert shortlist.features is not None, "payload"
        parts = torch.from_numpy(shortlist.features)
        classes = int(parts[0, 0])
        g, h = parts[:, 1 : 1 + classes].double(), parts[:, 1 + classes :].double()
        rows: list[int] = []
        while len(rows) < n_b:
            left = torch.ones(len(parts), dtype=torch.bool)
            left[rows] = False
            rest = left.nonzero().squeeze(1)
            rows += rest[_representatives(g[rest], h[rest], n_b - len(rows))].tolist()
        return Picked(np.array(rows, np.intp))


def _representatives(g: Tensor, h: Tensor, most: int) -> list[int]:
    """Up to ``most`` rows, at least one, of the gradients g ⊗ h (g [N, K], h [N, F] float64).

    Gram-Schmidt through inner products alone: a pivoted Cholesky factorisation of their Gram
    matrix, whose columns are computed when picked.
    """
    squares = (g**2).sum(1) * (h**2).sum(1)  # of what is left of each gradient
    floor = SPANNED**2 * squares
    sums = (g * (h @ (h.T @ g))).sum(1)  # its products with what is left of the sum
    factor = torch.empty(len(g), most, dtype=torch.float64)
    rows: list[int] = []
    for done in range(most):
        gains = sums.abs() / squares.clamp(min=1e-300).sqrt()
        gains[squares <= floor] = 0
        row = int(gains.argmax())
        if done == 0:
            least = SPANNED * gains[row]
        elif gains[row] <= least:
            break
        rows.append(row)
        products = (g @ g[row]) * (h @ h[row]) - factor[:, :done] @ factor[row, :done]
        column = products / squares[row].clamp(min=1e-300).sqrt()
        factor[:, done] = column
        squares -= column**2
        sums -= column * column.sum()
    return rows
