"""Building a model from its import path, and checking that it maps [C, ...] to [C, K]."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rhoselect.errors import ModelError
from rhoselect.importing import load_object
from rhoselect.plan import key64


def build_model(
    factory: str,
    args: Mapping[str, bool | int | float | str],
    input_shape: tuple[int, ...],
    classes: int,
    seed: int,
) -> nn.Module:
    """The model on the CPU in float32, with the initial weights that ``seed`` gives.

    Raises ModelError (one line) when the factory cannot be imported or called.
    """
    try:
        make = load_object(factory, "model.factory")
    except ValueError as error:
        raise ModelError(str(error)) from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(key64(seed, 0x6D6F64656C)) >> 1)
        try:
            model = make(input_shape=input_shape, classes=classes, **args)
        except Exception as error:
            raise ModelError(
                f"model.factory {factory}: failed with {type(error).__name__}: {error} when called"
                f" as factory(input_shape={input_shape}, classes={classes}, **{dict(args)})"
            ) from None
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"model.factory {factory}: returned a {type(model).__name__}, allowed a torch.nn.Module"
        )
    return model


def check_output(factory: str, model: nn.Module, inputs: Tensor, classes: int) -> None:
    """Check one forward of two points. Raises ModelError unless logits are [2, classes]."""
    was_training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            logits = model(inputs[:2])
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"model.factory {factory}: its model fails on inputs of shape"
            f" {list(inputs[:2].shape)}: {type(error).__name__}: {reason}"
        ) from None
    finally:
        model.train(was_training)
    got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if got != [2, classes]:
        raise ModelError(
            f"model.factory {factory}: for 2 points its model returns {got}, allowed logits"
            f" [2, {classes}]; return one row of class scores a point"
        )
