"""The multi-layer perceptron of the QMNIST experiments."""

from math import prod

from torch import nn


def mlp(
    *, input_shape: tuple[int, ...], classes: int, width: int = 512, depth: int = 2
) -> nn.Module:
    """``depth`` hidden layers of ``width`` ReLU units over the flattened input (paper: 2 x 512)."""
    layers: list[nn.Module] = [nn.Flatten()]
    units = prod(input_shape)
    for _ in range(depth):
        layers += [nn.Linear(units, width), nn.ReLU()]
        units = width
    return nn.Sequential(*layers, nn.Linear(units, classes))
