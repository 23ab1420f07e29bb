"""The small networks of stage 2, with the same weights for the same seed, and points for them."""

from __future__ import annotations

from collections.abc import Callable

import networks
import numpy as np
import torch
from torch import nn

from rhoselect.models import mlp, resnet18_small, small_cnn, text_transformer
from rhoselect.types import Batch

CLASSES = 10
IMAGE, TEXT, VOCABULARY = (1, 28, 28), (32,), 500
Networks = dict[str, tuple[Callable[..., nn.Module], tuple[int, ...], dict[str, int]]]
FACTORIES: Networks = {
    "mlp": (mlp, IMAGE, {}),
    "cnn": (small_cnn, IMAGE, {}),
    "resnet18": (resnet18_small, IMAGE, {"width": 64}),
    "vit": (networks.vit, IMAGE, {"width": 192, "heads": 3, "layers": 4, "patch": 7}),
    "transformer": (text_transformer, TEXT, {"vocabulary": VOCABULARY}),
}
QUICK: Networks = {
    "cnn": (small_cnn, IMAGE, {"width": 4}),
    "resnet18": (resnet18_small, IMAGE, {"width": 4}),
    "vit": (networks.vit, IMAGE, {"width": 32, "heads": 2, "layers": 1, "patch": 7}),
}


def model_of(name: str, seed: int, quick: bool) -> nn.Module:
    factory, shape, args = (FACTORIES | QUICK if quick else FACTORIES)[name]
    torch.default_generator.manual_seed(seed)
    return factory(input_shape=shape, classes=CLASSES, **args).eval()


def batch_of(name: str, seed: int, points: int, device: torch.device) -> Batch:
    shape = FACTORIES[name][1]
    torch.default_generator.manual_seed(seed)
    inputs = networks.inputs_of(shape, points, torch.device("cpu"), VOCABULARY).to(device)
    labels = torch.randint(CLASSES, (points,)).to(device)
    return Batch(np.arange(points, dtype=np.int64), (inputs, labels))
