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


def in_parts(
    model: nn.Module,
    windows: Iterable[Tensor],
    losses_of: Callable[[nn.Module, Tensor], Tensor],
    il: Tensor,
    *,
    n_b: int,
    chunk: int,
    parts: int,
    total: Callable[[list[Tensor]], Tensor],
    seed: Callable[[int, int], None],
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    clip_norm: float = 0.0,
) -> list[Tensor]:
    """Algorithm 1 in evaluation mode, with the gradient of a batch in ``parts``: rows j::parts, of
    which ``total`` gives the sum. All parts of a step begin with the same buffers, which become
    their mean. ``seed(step, part)`` goes before each part."""
    parameters, buffers = list(model.parameters()), list(model.buffers())
    taker = optimizer(parameters)
    selected = []
    for step, candidates in enumerate(windows):
        model.eval()
        with torch.no_grad():
            losses = [losses_of(model, part) for part in candidates.split(chunk)]
        reducible = torch.cat(losses) - il[candidates]
        best = candidates[reducible.argsort(descending=True, stable=True)[:n_b]]
        model.train()
        gradients, left = [], []
        before = [buffer.clone() for buffer in buffers]
        for part in range(parts):
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
            seed(step, part)
            loss = losses_of(model, best[part::parts]).sum() / n_b
            gradients.append(torch.autograd.grad(loss, parameters))
            left.append([buffer.clone() for buffer in buffers])
        for parameter, each in zip(parameters, zip(*gradients, strict=True), strict=True):
            parameter.grad = total(list(each))
        for buffer, each in zip(buffers, zip(*left, strict=True), strict=True):
            buffer.copy_(total(list(each)) / parts)  # of counts all are the same
        if clip_norm:
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        taker.step()
        selected.append(best)
    return selected


def in_pairs(values: list[Tensor]) -> Tensor:
    """The sum of 2^k values: neighbours first, then their sums."""
    while len(values) > 1:
        values = [one + other for one, other in zip(values[::2], values[1::2], strict=True)]
    return values[0]


def far_first(values: list[Tensor]) -> Tensor:
    """Their sum in another order."""
    while len(values) > 1:
        half = len(values) // 2
        values = [one + other for one, other in zip(values[:half], values[half:], strict=True)]
    return values[0]
