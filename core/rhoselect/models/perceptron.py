"""The multi-layer perceptron of the QMNIST experiments."""

from math import prod

from torch import nn

from rhoselect.models.convolutional import drop_units


def mlp(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    width: int = 512,
    depth: int = 2,
    dropout: float = 0.0,
) -> nn.Module:
    """``depth`` hidden layers of ``width`` ReLU units over the flattened input (paper: 2 x 512).

    ``dropout`` of the units of each hidden layer.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    units = prod(input_shape)
    for _ in range(depth):
        layers += [nn.Linear(units, width), nn.ReLU(), *drop_units(dropout)]
        units = width
    return nn.Sequential(*layers, nn.Linear(units, classes))
