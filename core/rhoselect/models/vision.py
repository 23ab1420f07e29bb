"""Any image model of timm or torchvision (extra "vision"), fitted to small images."""

from __future__ import annotations

from typing import Any

from torch import nn

from rhoselect.errors import ModelError
from rhoselect.models.extras import library as import_library
from rhoselect.models.shapes import image_shape


def vision(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    name: str,
    library: str = "timm",
    small_stem: bool = True,
    dropout: float = 0.0,
) -> nn.Module:
    """The model that ``library`` ("timm" or "torchvision") calls ``name``, without weights.

    With ``small_stem`` the first convolution becomes 3x3 with stride 1 and padding 1, and the first
    max-pool is left out, as is usual at 28 to 64 px; without it, only the number of input channels
    is fitted. Auxiliary classifiers are left out. ``dropout``: of the model's own layers where the
    library has them, so that 0 also overrides its default. Raises ModelError.
    """
    channels, _, _ = image_shape(input_shape)
    if library == "timm":
        timm = import_library("timm", "vision")
        model: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=classes, in_chans=channels, drop_rate=dropout
        )
    elif library == "torchvision":
        models = import_library("torchvision.models", "vision")
        builder = models.get_model_builder(name)
        model = builder(weights=None, num_classes=classes, **_options(builder))
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
    else:
        raise ModelError(f"library: got {library!r}, allowed 'timm' or 'torchvision'")
    fit_stem(model, channels, small_stem)
    return model


def _options(builder: Any) -> dict[str, bool]:
    """GoogLeNet and Inception-v3 of torchvision have auxiliary classifiers unless told."""
    if builder.__name__ in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    return {}


def fit_stem(model: nn.Module, channels: int, small: bool) -> None:
    """Give the first convolution ``channels`` input channels and, if ``small``, stride 1.

    Raises ModelError for a model without a convolution, or with one of stride > 2 (patches).
    """
    place = _first(model, nn.Conv2d)
    if place is None:
        raise ModelError("small_stem: the model has no 2-d convolution, allowed small_stem = false")
    conv = model.get_submodule(place)
    assert isinstance(conv, nn.Conv2d)
    if small and max(conv.stride) > 2:
        raise ModelError(
            f"small_stem: the model's first convolution {place} has stride {conv.stride}, allowed"
            " at most 2; set model.args.small_stem = false"
        )
    if small:
        stem = nn.Conv2d(channels, conv.out_channels, 3, padding=1, bias=conv.bias is not None)
        _replace(model, place, stem)
        pool = _first(model, nn.MaxPool2d)
        if pool is not None:
            _replace(model, pool, nn.Identity())
    elif conv.in_channels != channels:
        args = {n: getattr(conv, n) for n in ("kernel_size", "stride", "padding", "dilation")}
        stem = nn.Conv2d(channels, conv.out_channels, bias=conv.bias is not None, **args)
        _replace(model, place, stem)


def _first(model: nn.Module, kind: type[nn.Module]) -> str | None:
    return next((name for name, m in model.named_modules() if isinstance(m, kind)), None)


def _replace(model: nn.Module, place: str, module: nn.Module) -> None:
    parent, _, name = place.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
