"""Running statistics of BatchNorm, estimated anew: those that training keeps are of its batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def recalibrate_batchnorm(
    model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], object] | None = None
) -> None:
    """Replace the running statistics of ``model``'s BatchNorm layers by their averages over
    ``batches`` of inputs [C, ...], which are on the model's device. ``forward`` runs the model on
    one of them, if ``model(inputs)`` does not.

    After training on selected points, give it batches of points that are not selected, of about
    the size that the model was trained with. Each batch is normalised by its own statistics, as in
    training (Wu & Johnson 2021, "Rethinking 'Batch' in BatchNorm"). Everything else runs as in
    evaluation, so no random number is drawn. Without such layers no batch is taken. Layers that
    ``model.train()`` leaves in evaluation mode (frozen ones) stay as they are. Raises ValueError
    if there are layers and no batch.
    """
    before = [(module, module.training) for module in model.modules()]
    model.train()
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and _averages(m)]
    momenta = [norm.momentum for norm in norms]
    try:
        for module, _ in before:
            module.training = module in norms
        if norms:
            _average(forward or model, norms, batches)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in before:
            module.training = training


def running_statistics(model: nn.Module) -> set[str]:
    """The names of the buffers in which ``model``'s BatchNorm layers keep statistics."""
    return {
        f"{name}.{buffer}" if name else buffer
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _BatchNorm)
        for buffer, _ in module.named_buffers(recurse=False)
    }


def _averages(norm: _BatchNorm) -> bool:
    return norm.training and norm.running_mean is not None


def _average(
    forward: Callable[[Any], object], norms: list[_BatchNorm], batches: Iterable[Any]
) -> None:
    """Run ``batches`` through a model whose ``norms`` begin at the first one."""
    count = 0
    with torch.no_grad():
        for inputs in batches:
            if not count:
                for norm in norms:
                    norm.reset_running_stats()
                    norm.momentum = None  # torch's word for the average over all batches
            count += 1
            forward(inputs)
    if not count:
        raise ValueError("batches: got none, allowed at least one batch of inputs")
