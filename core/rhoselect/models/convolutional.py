"""The small CNN that predicts irreducible losses and the ResNet-18 for small images."""

import torch.nn.functional as F
from torch import Tensor, nn


def small_cnn(*, input_shape: tuple[int, ...], classes: int, width: int = 16) -> nn.Module:
    """Two 5x5 convolutions and two hidden linear layers, after LeNet; images [C, H, W] of >= 16 px.

    ``width`` is the number of channels of the first convolution; the second has twice as many.
    """
    channels, height, width_px = input_shape
    pixels = _after_pool(height) * _after_pool(width_px)
    return nn.Sequential(
        nn.Conv2d(channels, width, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * pixels, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )


def _after_pool(side_px: int) -> int:
    return ((side_px - 4) // 2 - 4) // 2


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut (He et al. 2016)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet18Small(nn.Module):
    """ResNet-18 with a 3x3 stem of stride 1 and no max-pool, for images of 28 to 64 px."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        units = width
        for stage, stride in enumerate((1, 2, 2, 2)):
            out = width * 2**stage
            blocks += [BasicBlock(units, out, stride), BasicBlock(out, out, 1)]
            units = out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(units, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.blocks(self.stem(x))
        logits: Tensor = self.head(y.mean((2, 3)))
        return logits


def resnet18_small(*, input_shape: tuple[int, ...], classes: int, width: int = 64) -> nn.Module:
    """The paper's ResNet-18 for small images (Appendix B); ``width``: channels of stage 1."""
    return ResNet18Small(input_shape[0], classes, width)
