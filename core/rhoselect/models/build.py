"""Building a model from its import path."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from rhoselect.config.sections import ModelConfig
from rhoselect.errors import ModelError, listed
from rhoselect.hashing import key64
from rhoselect.importing import load_object, one_line
from rhoselect.models.weights import load_weights


def configured_model(
    config: ModelConfig,
    input_shape: tuple[int, ...],
    classes: int,
    seed: int,
    key: str = "model.factory",
) -> nn.Module:
    """The model of ``config`` on the CPU, with the weights of its file if it names one, else with
    the initial weights that ``seed`` gives. ``key`` names its factory in the configuration. Raises
    ModelError, one line."""
    model = build_model(config.factory, config.args, input_shape, classes, seed, key)
    if config.weights is not None:
        load_weights(model, Path(config.weights), config.weights_head)
    return model


def build_model(
    factory: str,
    args: Mapping[str, bool | int | float | str],
    input_shape: tuple[int, ...],
    classes: int,
    seed: int,
    key: str = "model.factory",
) -> nn.Module:
    """The model on the CPU in float32, with the initial weights that ``seed`` gives. The factory is
    told ``input_shape`` and ``classes`` if it takes them. ``key`` names it in the configuration.

    Raises ModelError (one line) when the factory cannot be imported or called.
    """
    try:
        make = load_object(factory, key)
    except ValueError as error:
        raise ModelError(str(error)) from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(key64(seed, 0x6D6F64656C)) >> 1)
        told = _told(make, {"input_shape": input_shape, "classes": classes})
        try:
            model = make(**told, **args)
        except ModelError as error:
            raise ModelError(f"{key} {factory}: {error}") from None
        except Exception as error:
            given = ", ".join([*(f"{name}={value}" for name, value in told.items()), f"**{args}"])
            raise ModelError(
                f"{key} {factory}: failed with {one_line(error)} when called as factory({given})"
            ) from None
    return _checked(f"{key} {factory}", model)


def _told(make: Callable[..., Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the data's ``facts`` that a factory takes as keywords."""
    try:
        taken = inspect.signature(make).parameters.values()
    except (ValueError, TypeError):  # of some classes that are not written in Python
        return dict(facts)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken):
        return dict(facts)
    names = {parameter.name for parameter in taken}
    return {name: value for name, value in facts.items() if name in names}


def _checked(named: str, model: object) -> nn.Module:
    """What a factory returned, which messages call ``named``. Raises ModelError unless it is a
    model that can be trained."""
    if not isinstance(model, nn.Module):
        raise ModelError(f"{named}: returned a {type(model).__name__}, allowed a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            f"{named}: returned a TorchScript module, allowed the torch.nn.Module"
            " that it was made from: replicas of it have other precisions; return that"
        )
    if lazy := unsized(model):
        raise ModelError(
            f"{named}: its model has {listed(lazy, 3)} of unknown size, allowed"
            " layers that know their sizes; run one forward in the factory, or give the sizes"
        )
    check_learns(model, f"{named}: its model")
    return model


def check_learns(model: nn.Module, what: str) -> None:
    """Raise ModelError for a model, named ``what``, without anything to train."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(
            f"{what} has no parameters to train, allowed at least one with requires_grad; PEFT's"
            " from_pretrained gives one with is_trainable=True"
        )


def unsized(model: nn.Module) -> list[str]:
    """The names of tensors of lazy layers, which get their sizes in their first forward."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    return [name for name, tensor in tensors if is_lazy(tensor)]


def vocabulary_of(config: ModelConfig) -> int | None:
    """How many token ids the model of ``config`` knows: ``vocabulary`` of its factory's arguments,
    as given or by default. None without a positive integer of that name, or if the factory cannot
    be called, which it says when it is."""
    try:
        make = load_object(config.factory, "model.factory")
        called = inspect.signature(make).bind_partial(**config.args)
    except (ValueError, TypeError):
        return None
    called.apply_defaults()
    given = called.arguments.get("vocabulary")
    if not isinstance(given, int) or isinstance(given, bool):  # True may mean "have one"
        return None
    return given if given > 0 else None


def embedded_ids(model: nn.Module) -> int | None:
    """How many token ids the embedding of a model of transformers has; None of another model."""
    try:
        embedding = model.get_input_embeddings()  # type: ignore[operator]
    except Exception:  # the user's code, or no such method
        return None
    return embedding.num_embeddings if isinstance(embedding, nn.Embedding) else None


def other_floats(model: nn.Module) -> str:
    """What to say of a model that fails and has parameters of another precision than its inputs."""
    others = [
        (name, parameter.dtype)
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() and parameter.dtype != torch.float32
    ]
    if not others:
        return ""
    name, dtype = others[0]
    kind = str(dtype).removeprefix("torch.")
    return f" has {name} of type {kind}, allowed float32 (return model.float()), and"
