"""The built-in models: shapes, sizes, and initial weights that the seed alone decides."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rhoselect.models import resnet18_small, small_cnn
from rhoselect.models.build import build_model
from rhoselect.models.convolutional import ResNet18Small

MLP, CNN, RESNET = (f"rhoselect.models:{name}" for name in ("mlp", "small_cnn", "resnet18_small"))


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("factory", "args", "shape", "parameters"),
    [
        (MLP, {}, (1, 28, 28), 669_706),
        (MLP, {"width": 8, "depth": 1}, (5,), 5 * 8 + 8 + 8 * 10 + 10),
        # 5x5 to 16, 5x5 to 32, then 32 * 4 * 4 = 512 to 120 to 84 to 10
        (CNN, {}, (1, 28, 28), 416 + 12_832 + 61_560 + 10_164 + 850),
        (RESNET, {"width": 64}, (3, 32, 32), 11_173_962),
    ],
)
def test_sizes_are_those_of_the_paper(
    factory: str, args: dict[str, int], shape: tuple[int, ...], parameters: int
) -> None:
    model = build_model(factory, args, shape, 10, seed=0)
    assert size(model) == parameters
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("factory", "args", "shape"),
    [
        (MLP, {"width": 8}, (7,)),
        (MLP, {"width": 8, "depth": 3}, (3, 4, 5)),
        (CNN, {"width": 2}, (3, 16, 16)),
        (CNN, {"width": 2}, (1, 20, 33)),
        (RESNET, {"width": 4}, (1, 28, 28)),
        (RESNET, {"width": 4}, (3, 31, 64)),
    ],
)
def test_one_row_of_class_scores_a_point(
    factory: str, args: dict[str, int], shape: tuple[int, ...]
) -> None:
    model = build_model(factory, args, shape, 6, seed=0)
    logits = model(torch.randn(3, *shape))
    assert logits.shape == (3, 6)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_width_scales_every_stage_and_the_stem_keeps_the_resolution() -> None:
    model = resnet18_small(input_shape=(3, 32, 32), classes=10, width=8)
    assert isinstance(model, ResNet18Small)
    images = torch.zeros(2, 3, 32, 32)
    assert model.stem(images).shape == (2, 8, 32, 32)
    assert model.blocks(model.stem(images)).shape == (2, 64, 4, 4)
    narrow, wide = (small_cnn(input_shape=(1, 28, 28), classes=10, width=w) for w in (4, 8))
    assert size(narrow) < size(wide)


@pytest.mark.parametrize("factory", [MLP, CNN, RESNET])
def test_the_seed_alone_decides_the_initial_weights(factory: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        model = build_model(factory, {"width": 4}, (1, 16, 16), 10, seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.manual_seed(1)
    first = weights(seed=3)
    torch.manual_seed(2)
    assert torch.equal(weights(seed=3), first)
    assert not torch.equal(weights(seed=4), first)


def test_building_a_model_leaves_the_global_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    build_model(CNN, {}, (1, 28, 28), 10, seed=9)
    assert torch.equal(torch.rand(4), expected)
