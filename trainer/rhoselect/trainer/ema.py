"""The moving average of a model's weights, which is evaluated and shipped in place of the model."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rhoselect.models.copying import copying

AVERAGE = "average."
"""Prefix of its tensors in checkpoints."""


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """A copy of ``model`` whose parameters become ``decay`` times their own plus 1 - ``decay``
    times the model's at each ``update_parameters(model)``; its buffers become the model's. Raises
    ModelError for a model that cannot be copied."""
    average_of = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    with copying():
        average = AveragedModel(model, multi_avg_fn=average_of)
    average.update_parameters(model)  # its first update takes the weights as they are
    return average
