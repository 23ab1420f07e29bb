"""RHO-LOSS as one function on tensors, for a training loop without the rest of rhoselect."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rhoselect.errors import UserError


def select(losses: Tensor, irreducible_losses: Tensor | ArrayLike, n_b: int) -> Tensor:
    """Indices [n_b] int64 of the candidates with the greatest reducible loss, greatest first.

    ``losses`` [n_B] are the candidates' losses under the weights of now, ``irreducible_losses``
    [n_B] their losses under a model that learnt from other data, a tensor on any device or an
    array; both in nats. The reducible loss is the difference. Of equal ones the lower index comes
    first. A candidate whose reducible loss is NaN or infinite is never selected.

    Raises UserError if the shapes are not one [n_B], or if fewer than ``n_b`` are finite.

    Of these three candidates the first can still be learnt, the second has been learnt, and the
    third has a wrong label:

    >>> import torch
    >>> losses = torch.tensor([2.0, 0.1, 3.0])
    >>> irreducible_losses = torch.tensor([0.5, 0.0, 4.0])
    >>> select(losses, irreducible_losses, n_b=2)
    tensor([0, 1])
    """
    irreducible_losses = torch.as_tensor(irreducible_losses, device=losses.device)
    if losses.ndim != 1 or losses.shape != irreducible_losses.shape:
        raise UserError(
            f"select: got losses {list(losses.shape)} and irreducible losses"
            f" {list(irreducible_losses.shape)}, allowed two tensors of one shape [n_B]; give one"
            " loss per candidate, without a mean"
        )
    reducible = losses.detach() - irreducible_losses.detach()
    finite = reducible.isfinite()
    usable = int(finite.sum())
    if not 1 <= n_b <= usable:
        raise UserError(
            f"select: got n_b = {n_b} and {usable} of {len(reducible)} candidates with a finite"
            " reducible loss, allowed 1 to that many; change n_b, or look for NaN in the losses"
        )
    ranked = reducible.masked_fill(~finite, -float("inf")).argsort(descending=True, stable=True)
    return ranked[:n_b]
