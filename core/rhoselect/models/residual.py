"""ResNets (He et al. 2016) for images of 28 to 64 px: a 3x3 stem of stride 1 and no max-pool."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from rhoselect.models.shapes import image_shape


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut (He et al. 2016)."""

    expansion = 1

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(channels_in, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions with BatchNorm and a shortcut."""

    expansion = 4

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, self.expansion * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.expansion * channels)
        self.shortcut = _shortcut(channels_in, self.expansion * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


def _shortcut(channels_in: int, channels: int, stride: int) -> nn.Module:
    if stride == 1 and channels_in == channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
    )


class ResNet(nn.Module):
    """Images [C, channels, H, W] to logits [C, classes]; four stages of ``depths`` blocks.

    Stage s has ``width`` * 2^s channels inside its blocks; ``dropout`` is of the last features.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, int, int, int],
        channels: int,
        classes: int,
        width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        blocks: list[nn.Module] = []
        units = width
        for stage, depth in enumerate(depths):
            for place in range(depth):
                stride = 2 if stage > 0 and place == 0 else 1
                blocks.append(block(units, width * 2**stage, stride))
                units = width * 2**stage * block.expansion
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = nn.Linear(units, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.blocks(self.stem(x))
        logits: Tensor = self.head(self.dropout(y.mean((2, 3))))
        return logits


def resnet18_small(
    *, input_shape: tuple[int, ...], classes: int, width: int = 64, dropout: float = 0.0
) -> nn.Module:
    """The paper's ResNet-18 for small images (Appendix B); ``width``: channels of stage 1."""
    return ResNet(BasicBlock, (2, 2, 2, 2), image_shape(input_shape)[0], classes, width, dropout)


def resnet34(
    *, input_shape: tuple[int, ...], classes: int, width: int = 64, dropout: float = 0.0
) -> nn.Module:
    """ResNet-34 for small images; arguments as in ``resnet18_small``."""
    return ResNet(BasicBlock, (3, 4, 6, 3), image_shape(input_shape)[0], classes, width, dropout)


def resnet50(
    *, input_shape: tuple[int, ...], classes: int, width: int = 64, dropout: float = 0.0
) -> nn.Module:
    """ResNet-50 for small images; arguments as in ``resnet18_small``."""
    return ResNet(Bottleneck, (3, 4, 6, 3), image_shape(input_shape)[0], classes, width, dropout)
