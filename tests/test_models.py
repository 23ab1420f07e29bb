"""The built-in models: shapes, sizes, and initial weights that the seed alone decides."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rhoselect.errors import ModelError
from rhoselect.inputs.checks import check_model
from rhoselect.models import cifar_cnn, resnet18_small, small_cnn
from rhoselect.models.build import build_model
from rhoselect.models.residual import ResNet
from rhoselect.tasks import Classification
from rhoselect.types import Batch

MLP, CNN, RESNET = (f"rhoselect.models:{name}" for name in ("mlp", "small_cnn", "resnet18_small"))
CIFAR_CNN, VGG, RESNET_34, RESNET_50 = (
    f"rhoselect.models:{name}" for name in ("cifar_cnn", "vgg11_bn", "resnet34", "resnet50")
)
TEXT = "rhoselect.models:text_transformer"
DOCS = Path(__file__).parent.parent / "docs" / "models.md"


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
        # counts commonly published for the CIFAR variants of these
        (RESNET_34, {}, (3, 32, 32), 21_282_122),
        (RESNET_50, {}, (3, 32, 32), 23_520_842),
        (VGG, {"hidden_layers": 0}, (3, 32, 32), 9_231_114),
        (VGG, {}, (3, 32, 32), 9_231_114 + 2 * (512 * 512 + 512)),
    ],
)
def test_sizes_are_those_of_the_paper(
    factory: str, args: dict[str, int], shape: tuple[int, ...], parameters: int
) -> None:
    with torch.device("meta"):
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
        (RESNET_34, {"width": 2}, (3, 20, 20)),
        (RESNET_50, {"width": 2}, (1, 20, 20)),
        (CIFAR_CNN, {"width": 2}, (1, 28, 28)),
        (CIFAR_CNN, {"width": 2}, (3, 22, 40)),
        (VGG, {"hidden_layers": 0}, (3, 33, 32)),
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
    assert isinstance(model, ResNet)
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


def lazy(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def test_a_lazy_model_is_refused_in_one_line() -> None:
    words = r"^model.factory .*:lazy: its model has 1\.weight, 1\.bias of unknown size, .*forward"
    with pytest.raises(ModelError, match=words):
        build_model(f"{__name__}:lazy", {}, (1, 16, 16), 10, seed=0)


IMAGE_MODELS = ("small_cnn", "cifar_cnn", "vgg11_bn", "resnet18_small", "resnet34", "vision")


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_image_models_say_which_shapes_they_take(name: str) -> None:
    args = {"name": "resnet18"} if name == "vision" else {}
    words = rf":{name}: got inputs of shape \[4\], allowed images \[C, H, W\].*:mlp takes inputs"
    with pytest.raises(ModelError, match=words):
        build_model(f"rhoselect.models:{name}", args, (4,), 10, seed=0)


@pytest.mark.parametrize(
    ("factory", "side_px", "allowed"),
    [(CNN, 15, "16 px or more"), ("rhoselect.models:vgg11_bn", 64, "32 to 63 px")],
)
def test_images_of_a_size_that_a_model_does_not_take(
    factory: str, side_px: int, allowed: str
) -> None:
    with pytest.raises(ModelError, match=rf"\[C, H, W\] of {allowed};"):
        build_model(factory, {}, (3, side_px, 32), 10, seed=0)


def test_a_model_of_another_precision_is_named() -> None:
    words = r"has weight of type float64, allowed float32 .*, and fails on .* \[2, 4\]"
    points = Batch(np.arange(2), (torch.zeros(2, 4), torch.tensor([0, 2])))
    with pytest.raises(ModelError, match=words):
        check_model("model.factory m:f", Classification(), nn.Linear(4, 3).double(), points, 3)


def test_building_a_model_leaves_the_global_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    build_model(CNN, {}, (1, 28, 28), 10, seed=9)
    assert torch.equal(torch.rand(4), expected)


def flops(model: nn.Module, inputs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(inputs)
    return counter.get_total_flops()


def test_the_small_cnn_has_the_published_ratios_to_resnet_18() -> None:
    """Section 4.2 of the paper: 20.8 times fewer parameters, 29.4 times fewer FLOPs."""
    with torch.device("meta"):
        images = torch.zeros(1, 3, 32, 32)
        small, large = (
            factory(input_shape=(3, 32, 32), classes=10) for factory in (cifar_cnn, resnet18_small)
        )
    assert round(size(large) / size(small), 1) == 20.8
    assert round(flops(large, images) / flops(small, images), 1) == 29.4


@pytest.mark.parametrize("line", re.findall(r"^\| `\w+` \|.*", DOCS.read_text(), re.M))
def test_the_table_in_the_docs(line: str) -> None:
    name, args, parameters, mega_flops = (cell.strip(" `") for cell in line.split("|")[1:5])
    words = [word.split("=") for word in args.split()]
    given: dict[str, bool | int | float | str] = {key: int(value) for key, value in words}
    shape = (64,) if name == "text_transformer" else (3, 32, 32)
    with torch.device("meta"):
        model = build_model(f"rhoselect.models:{name}", given, shape, 10, seed=0)
        inputs = torch.ones(1, *shape, dtype=torch.int64 if len(shape) == 1 else torch.float32)
    assert size(model) == int(parameters.replace(",", ""))
    assert f"{flops(model, inputs) / 1e6:.1f}" == mega_flops.replace(",", "")


@pytest.mark.parametrize(
    ("factory", "args", "shape"),
    [
        (MLP, {"width": 8}, (7,)),
        (CNN, {"width": 2}, (1, 16, 16)),
        (CIFAR_CNN, {"width": 2}, (1, 28, 28)),
        (RESNET, {"width": 4}, (1, 16, 16)),
        (VGG, {"hidden_layers": 1}, (1, 32, 32)),
        (TEXT, {"vocabulary": 9, "width": 8}, (5,)),
    ],
)
def test_dropout_acts_in_training_mode_alone_and_adds_no_weights(
    factory: str, args: dict[str, int], shape: tuple[int, ...]
) -> None:
    plain = build_model(factory, args, shape, 6, seed=0)
    model = build_model(factory, {**args, "dropout": 0.5}, shape, 6, seed=0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert size(model) == size(plain)
    assert not any(isinstance(m, nn.Dropout | nn.Dropout2d) for m in plain.modules())
    inputs = torch.randint(1, 9, (4, *shape)) if factory == TEXT else torch.randn(4, *shape)
    assert not torch.equal(model(inputs), model(inputs))
    assert torch.equal(model.eval()(inputs), plain.eval()(inputs))
