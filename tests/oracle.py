"""Algorithm 1 of Mindermann et al. (2022) in plain torch: no queue, no plan, no transport."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def algorithm_1(
    model: nn.Module,
    windows: Iterable[Tensor],
    read: Callable[[Tensor], tuple[Tensor, Tensor]],
    il: Tensor,
    **how: Any,
) -> list[Tensor]:
    """Train a classifier on the inputs and labels that ``read`` gives: see ``any_task``."""

    def losses(network: nn.Module, indices: Tensor) -> Tensor:
        inputs, labels = read(indices)
        return F.cross_entropy(network(inputs).float(), labels, reduction="none")

    return any_task(model, windows, losses, il, **how)


def any_task(
    model: nn.Module,
    windows: Iterable[Tensor],
    losses_of: Callable[[nn.Module, Tensor], Tensor],
    il: Tensor,
    *,
    n_b: int,
    chunk: int,
    lr: float,
    autocast: torch.dtype | None = None,
    batch_statistics: bool = False,
) -> list[Tensor]:
    """Train ``model`` in place, on its device, on ``windows`` [n_B]; returns the indices [n_b] of
    each step. ``losses_of(model, indices)`` are those of some points."""
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
    selected = []
    for candidates in windows:
        frozen = copy.deepcopy(model).train(batch_statistics)
        losses = []
        with torch.no_grad(), torch.autocast(device.type, autocast, enabled=autocast is not None):
            for part in candidates.split(chunk):
                losses.append(losses_of(frozen, part))
        reducible = torch.cat(losses).cpu() - il[candidates]
        best = candidates[reducible.argsort(descending=True, stable=True)[:n_b]]
        optimizer.zero_grad()
        losses_of(model, best).mean().backward()
        optimizer.step()
        selected.append(best)
    return selected
