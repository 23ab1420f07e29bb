"""Algorithm 1 of Mindermann et al. (2022) in plain torch: no queue, no plan, no transport."""

import copy
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def algorithm_1(
    model: nn.Module,
    windows: Iterable[Tensor],
    read: Callable[[Tensor], tuple[Tensor, Tensor]],
    il: Tensor,
    *,
    n_b: int,
    chunk: int,
    lr: float,
    autocast: torch.dtype | None,
    batch_statistics: bool = False,
) -> list[Tensor]:
    """Train ``model`` in place, on its device, on ``windows`` [n_B]; returns the indices [n_b] of
    each step."""
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, fused=True)
    selected = []
    for candidates in windows:
        frozen = copy.deepcopy(model).train(batch_statistics)
        losses = []
        with torch.no_grad(), torch.autocast(device.type, autocast, enabled=autocast is not None):
            for part in candidates.split(chunk):
                inputs, labels = read(part)
                losses.append(F.cross_entropy(frozen(inputs).float(), labels, reduction="none"))
        reducible = torch.cat(losses).cpu() - il[candidates]
        best = candidates[reducible.argsort(descending=True, stable=True)[:n_b]]
        inputs, labels = read(best)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels, reduction="none").mean().backward()
        optimizer.step()
        selected.append(best)
    return selected
