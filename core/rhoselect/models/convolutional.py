"""Small convolutional networks of the paper, for irreducible losses and as targets."""

from torch import nn

from rhoselect.models.shapes import image_shape


def small_cnn(
    *, input_shape: tuple[int, ...], classes: int, width: int = 16, dropout: float = 0.0
) -> nn.Module:
    """Two 5x5 convolutions and two hidden linear layers, after LeNet; images [C, H, W] of >= 16 px.

    ``width`` is the number of channels of the first convolution; the second has twice as many.
    ``dropout`` of channels after a convolution, of units after a hidden layer.
    """
    channels, height, width_px = image_shape(input_shape, 16)
    pixels = _after_pool(height) * _after_pool(width_px)
    return nn.Sequential(
        nn.Conv2d(channels, width, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        *drop_channels(dropout),
        nn.Conv2d(width, 2 * width, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        *drop_channels(dropout),
        nn.Flatten(),
        nn.Linear(2 * width * pixels, 120),
        nn.ReLU(),
        *drop_units(dropout),
        nn.Linear(120, 84),
        nn.ReLU(),
        *drop_units(dropout),
        nn.Linear(84, classes),
    )


def _after_pool(side_px: int) -> int:
    return ((side_px - 4) // 2 - 4) // 2


def cifar_cnn(
    *, input_shape: tuple[int, ...], classes: int, width: int = 64, dropout: float = 0.0
) -> nn.Module:
    """The paper's small CNN for CIFAR: three 3x3 convolutions without padding, of 1, 2 and 4 x
    ``width`` channels, and hidden layers of 128 and 256; images [C, H, W] of >= 22 px.

    It is the one of the published ratios (Section 4.2): 20.8 times fewer parameters and 29.4 times
    fewer FLOPs than ResNet-18 at 3x32x32. ``dropout`` as in ``small_cnn``.
    """
    channels, height, width_px = image_shape(input_shape, 22)
    layers: list[nn.Module] = []
    for out in (width, 2 * width, 4 * width):
        layers += [nn.Conv2d(channels, out, 3), *drop_channels(dropout), nn.MaxPool2d(2), nn.ReLU()]
        channels, height, width_px = out, (height - 2) // 2, (width_px - 2) // 2
    layers.append(nn.Flatten())
    units = channels * height * width_px
    for out in (128, 256):
        layers += [nn.Linear(units, out), *drop_units(dropout), nn.ReLU()]
        units = out
    return nn.Sequential(*layers, nn.Linear(units, classes))


VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Channels of the convolutions before each max-pool: configuration A of Simonyan & Zisserman."""


def vgg11_bn(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    hidden_layers: int = 2,
    dropout: float = 0.0,
) -> nn.Module:
    """VGG-11 with BatchNorm (configuration A), for images [C, H, W] of 32 to 63 px.

    ``hidden_layers`` of 512 units come before the logits: two in the paper's reference, which drops
    half their inputs; none in the variant often called VGG11 for CIFAR. ``dropout`` of those units.
    """
    channels, _, _ = image_shape(input_shape, 32, 63)
    layers: list[nn.Module] = []
    for block in VGG11:
        for out in block:
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    for _ in range(hidden_layers):
        layers += [*drop_units(dropout), nn.Linear(512, 512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, classes))


def drop_channels(dropout: float) -> list[nn.Module]:
    """A layer that drops whole channels, or none at 0: names of weights then stay as they are."""
    return [nn.Dropout2d(dropout)] if dropout else []


def drop_units(dropout: float) -> list[nn.Module]:
    """A layer that drops units, or none at 0."""
    return [nn.Dropout(dropout)] if dropout else []
