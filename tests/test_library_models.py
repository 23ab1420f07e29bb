"""Models of other libraries: their stems fitted to small images, and errors where one is missing.

timm needs torchvision, whose build must fit torch's: where it does not, the models themselves are
not tried, only the stem, on a network that has the same kinds of layers.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from torch import nn

from rhoselect.errors import ModelError
from rhoselect.models.build import build_model
from rhoselect.models.extras import library
from rhoselect.models.vision import fit_stem

VISION = "rhoselect.models:vision"


def imagenet(stride: int = 2) -> nn.Sequential:
    """7x7 with a stride, pool, 3x3, pool: 7 px a side of 224."""
    stem = nn.Sequential(nn.Conv2d(3, 8, 7, stride, padding=3, bias=False), nn.BatchNorm2d(8))
    pool = nn.MaxPool2d(3, 2, padding=1)
    return nn.Sequential(
        stem, nn.ReLU(), pool, nn.Conv2d(8, 8, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(2)
    )


def test_a_small_stem_keeps_the_resolution_until_the_second_pool() -> None:
    model = imagenet()
    later = model[3].weight
    fit_stem(model, channels=1, small=True)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 8, 16 * 16)
    assert model[0][0].weight.shape == (8, 1, 3, 3)
    assert model[0][0].bias is None
    assert model[3].weight is later


def test_without_a_small_stem_only_the_channels_are_fitted() -> None:
    model = imagenet()
    before = model[0][0]
    fit_stem(model, channels=3, small=False)
    assert model[0][0] is before
    fit_stem(model, channels=1, small=False)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 8, 4 * 4)
    assert model[0][0].weight.shape == (8, 1, 7, 7)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (imagenet(stride=4), r"0\.0 has stride \(4, 4\), allowed at most 2; set .*small_stem"),
        (nn.Sequential(nn.Linear(2, 2)), "has no 2-d convolution"),
    ],
)
def test_models_without_a_stem_to_fit(model: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        fit_stem(model, channels=1, small=True)


def test_what_is_not_installed_or_not_known_is_named() -> None:
    with pytest.raises(ModelError, match=r"no_such_library cannot be imported .*rhoselect\[text\]"):
        library("no_such_library", "text")
    with pytest.raises(ModelError, match="library: got 'keras', allowed 'timm' or 'torchvision'"):
        build_model(VISION, {"name": "resnet18", "library": "keras"}, (3, 32, 32), 10, 0)


def test_a_library_made_for_another_torch_is_told_from_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchvision's usual build is beside a torch for CPUs, where the extra is installed."""
    (tmp_path / "vision_of_cuda.py").write_text("raise RuntimeError('no operator nms')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    with pytest.raises(ModelError, match=r"no operator nms.* not made for this torch") as broken:
        library("vision_of_cuda", "vision")
    assert "rhoselect[vision]" not in str(broken.value), "it is installed"
    with pytest.raises(ModelError, match=r"pip install 'rhoselect\[vision\]'") as missing:
        library("no_such_library", "vision")
    for error in (broken.value, missing.value):
        assert "--extra-index-url URL" in str(error) and "cpu builds" in str(error)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("googlenet", "torchvision"),
        ("densenet121", "torchvision"),
        ("mobilenet_v2", "torchvision"),
        ("inception_v3", "torchvision"),
        ("densenet121", "timm"),
        ("mobilenetv2_100", "timm"),
        ("inception_v3", "timm"),
    ],
)
def test_the_papers_models_on_small_images(name: str, source: str) -> None:
    try:
        importlib.import_module(source)
    except (ImportError, RuntimeError) as error:  # such as an operator that this torch lacks
        pytest.skip(f"no {source} that fits torch {torch.__version__}: {error}")
    model = build_model(VISION, {"name": name, "library": source}, (1, 32, 32), 6, 0).eval()
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 6)
    with pytest.raises(ModelError, match="nknown model"):
        build_model(VISION, {"name": "no_such", "library": source}, (1, 32, 32), 6, 0)
