"""Which tokens of a batch are trained on: those with the greatest excess loss (Lin et al. 2024,
"Rho-1: Not All Tokens Are What You Need")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rhoselect.data.il_table import IlTable
from rhoselect.data.token_losses import COLUMN
from rhoselect.errors import ConfigError, IrreducibleLossError
from rhoselect.types import Indices, Losses


@dataclass(frozen=True)
class TokenSelection:
    """Keeps the ``share`` of the tokens of a batch whose training loss exceeds that of the
    reference model the most. ``table`` has the losses of its tokens."""

    share: float
    table: IlTable

    def losses(self, found: Losses, indices: Indices) -> Tensor:
        """Losses [C] of the points ``indices`` [C], whose mean is that of the kept tokens' losses.

        Raises ConfigError for a task without losses of tokens, IrreducibleLossError for a table of
        other tokens.
        """
        tokens, mask = token_losses(found)
        reference = self._reference(mask, indices)
        excess = tokens.detach()[mask] - reference
        kept = torch.zeros_like(mask)
        kept[mask] = best(excess, self.share)
        points_per_token = len(indices) / max(1, _count(self.share, len(excess)))
        return torch.where(kept, tokens, 0.0).sum(1) * points_per_token

    def _reference(self, mask: Tensor, indices: Indices) -> Tensor:
        """The reference's losses [M] of the tokens that ``mask`` [C, T] has, row by row."""
        assert self.table.tokens is not None, "read with the table"
        stored = self.table.tokens.take(indices - self.table.start)
        wanted = mask.sum(1).cpu().numpy()
        if (other := np.flatnonzero(stored.counts != wanted)).size:
            row = other[0]
            raise IrreducibleLossError(
                f"il.table: {COLUMN} of index {indices[row]} has {stored.counts[row]} losses,"
                f" allowed {wanted[row]}, one for each token that the task predicts; run 'rhoctl"
                " il fit --tokens' on these tokens, with the run's task"
            )
        return torch.from_numpy(stored.values).to(mask.device)


def best(excess: Tensor, share: float) -> Tensor:
    """Which [M] of ``excess`` [M] are kept: the greatest, and of equal ones the earlier."""
    order = excess.argsort(descending=True, stable=True)
    kept = torch.zeros_like(excess, dtype=torch.bool)
    kept[order[: _count(share, len(excess))]] = True
    return kept


def token_losses(found: Losses) -> tuple[Tensor, Tensor]:
    """A task's losses of tokens [C, T] float32, and which of them count [C, T] bool. Raises
    ConfigError of a task without them."""
    tokens, mask = found.tokens, found.mask
    if tokens is None or mask is None:
        raise ConfigError(
            "task.name: got a task without losses of tokens, allowed one whose Losses have tokens"
            " [C, T] and mask [C, T], such as 'causal_lm', to select tokens"
        )
    count = len(found.losses)
    if tokens.ndim != 2 or len(tokens) != count or mask.shape != tokens.shape:
        raise ConfigError(
            f"task.name: got losses of tokens {list(tokens.shape)} with a mask {list(mask.shape)},"
            f" allowed [{count}, T] for both"
        )
    return tokens.float(), mask.bool()


def _count(share: float, tokens: int) -> int:
    """How many of so many tokens are kept: one at least, if there is one."""
    return max(min(1, tokens), round(share * tokens))
