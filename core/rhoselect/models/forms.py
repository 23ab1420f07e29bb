"""The forms of a replica's model: what is done to its tensors, then what runs in its place, then
how it is run. Every replica of a run is made by these three, from the same keys, in this order, so
that all have the same bits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rhoselect.compute import DTYPES
from rhoselect.models.captured import Captured
from rhoselect.models.compiling import compile_parts
from rhoselect.models.folding import Folded
from rhoselect.models.layout import lay_out
from rhoselect.models.numerics import Cast, Numerics
from rhoselect.models.rowwise import quantize
from rhoselect.tasks import Task, losses_of
from rhoselect.types import Batch, Losses

CAST_MODULES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def prepare(model: nn.Module, numerics: Numerics, device: torch.device) -> bool:
    """Give the tensors of ``model``, which snapshots are copied to, their dtypes, place and layout.
    Returns whether a loss depends on the other points, by BatchNorm of the batch."""
    _cast(model, DTYPES[numerics.precision], numerics.cast)
    by_batch = numerics.bn == "batch" and _drop_statistics(model)
    model.to(device)
    lay_out(model, numerics.channels_last)
    return by_batch


def scored(model: nn.Module, numerics: Numerics, device: torch.device) -> nn.Module:
    """What runs in place of ``model``. Its parts that are `Derived` follow each load of weights.
    Raises ConfigError or ModelError where a form cannot be had."""
    if numerics.quantize != "none":
        quantize(model, numerics.quantize, device)
    made = Folded(model) if numerics.fold_batchnorm else model
    if numerics.compile:
        compile_parts(made, device)
    return made


def forward(
    task: Task, model: nn.Module, numerics: Numerics, device: torch.device
) -> Callable[[Batch], Losses]:
    """What computes the losses of a batch. Raises ConfigError where there are no CUDA graphs."""
    plain = partial(losses_of, task, model)
    return Captured(plain, device) if numerics.graph else plain


def _cast(model: nn.Module, dtype: torch.dtype, cast: Cast) -> None:
    """Hold linear and convolution weights in ``dtype``. A weight that others read too (a head tied
    to its embedding) stays float32 for them, unless ``cast`` is "all"."""
    if cast == "all":  # but not the few numbers of a norm, which its running statistics go with
        for parameter in model.parameters():
            if parameter.ndim > 1 and parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
    others = (m for m in model.modules() if not isinstance(m, CAST_MODULES))
    wide = {id(p) for module in others for p in module.parameters(recurse=False)}
    for module in model.modules():
        own = {id(p) for p in module.parameters(recurse=False)}
        if isinstance(module, CAST_MODULES) and wide.isdisjoint(own):
            module.to(dtype)


def _drop_statistics(model: nn.Module) -> bool:
    """Make BatchNorm layers use the statistics of each batch, by owning none. False without any."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
        norm.track_running_stats = False
    return bool(norms)
