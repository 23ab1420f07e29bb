"""Images stored by pixel in place of by channel, which convolutions may compute faster."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from rhoselect.errors import ModelError
from rhoselect.nest import mapped
from rhoselect.types import Batch

FEWEST_INPUTS = 16  # channels, by the widest registers of a CPU


def lay_out(model: nn.Module, by_pixel: bool) -> None:
    """Store the weights of convolutions by pixel, or leave them as they are."""
    if by_pixel:
        # The stubs know no memory format without a dtype.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def lay_out_to_train(model: nn.Module, by_pixel: bool, device: torch.device) -> None:
    """The same of a model that learns on ``device``. Raises ModelError for a convolution whose
    gradient may end the process on a CPU: oneDNN writes past its memory (its issue 6035)."""
    lay_out(model, by_pixel)
    for name, module in model.named_modules() if by_pixel else ():
        if not isinstance(module, nn.Conv2d) or device.type != "cpu":
            continue
        inputs = module.in_channels // module.groups
        if module.kernel_size == (1, 1) and max(module.stride) > 1 and inputs < FEWEST_INPUTS:
            raise ModelError(
                f"trainer.channels_last: got true on a CPU with {name}, a convolution 1x1 of stride"
                f" {max(module.stride)} from {inputs} channels, allowed {FEWEST_INPUTS} or more, as"
                " oneDNN fails on fewer; set it to false"
            )


def laid_out(batch: Batch, by_pixel: bool) -> Batch:
    """The points with their images in the layout of such weights."""
    return replace(batch, content=mapped(batch.content, _by_pixel)) if by_pixel else batch


def _by_pixel(tensor: Tensor) -> Tensor:
    """Images [C, channels, H, W] laid out by pixel; other tensors as they are."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
