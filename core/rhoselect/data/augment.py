"""Augmented views of images: a pure function of (seed, epoch, index).

A point that is scored and then trained on in the same epoch is the same view both times, in any
process and in any batch; in the next epoch it is another view. Views move pixels of the stored
bytes without arithmetic, so they are exact. (Libraries such as kornia draw from torch's global
generator for a whole batch, take floats only and resample: a view would depend on its batch.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rhoselect.hashing import key64, mix64
from rhoselect.types import Indices

VIEW = 0x76696577  # what the key is for


@dataclass(frozen=True)
class Augmentation:
    """Random crop after padding by ``crop_padding`` black pixels on each side, then a horizontal
    flip with probability 1/2 if ``flip``."""

    seed: int
    crop_padding: int
    flip: bool

    def __call__(self, images: Tensor, indices: Indices, epochs: Indices) -> Tensor:
        """The views [C, channels, H, W] of ``images`` (same shape) in ``epochs`` [C]."""
        (down, right), flipped = self.draw(indices, epochs)
        device, (height, width) = images.device, images.shape[2:]
        rows = torch.arange(len(images), device=device)
        padded = F.pad(images, (self.crop_padding,) * 4)
        crops = padded.unfold(2, height, 1).unfold(3, width, 1)  # [C, channels, places, places, …]
        views = crops[
            rows, :, torch.from_numpy(down).to(device), torch.from_numpy(right).to(device)
        ]
        turned = torch.from_numpy(flipped).to(device)[:, None, None, None]
        return torch.where(turned, views.flip(3), views)

    def draw(
        self, indices: Indices, epochs: Indices
    ) -> tuple[tuple[Indices, Indices], np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        """Offsets (down, right), each [C] in 0 … 2 crop_padding, and whether flipped [C]."""
        bits = np.empty(len(indices), np.uint64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            bits[here] = mix64(indices[here].astype(np.uint64) ^ key64(self.seed, VIEW, epoch))
        places = np.uint64(2 * self.crop_padding + 1)
        low, high = bits & np.uint64(0x7FFFFFFF), bits >> np.uint64(33)
        down, right = ((part * places >> np.uint64(31)).astype(np.int64) for part in (low, high))
        flipped = (bits >> np.uint64(32)) & np.uint64(1) == np.uint64(1)
        return (down, right), flipped & self.flip
