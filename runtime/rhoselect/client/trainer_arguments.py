"""What a ``SelectionTrainer`` makes of the arguments of the Trainer, and which it refuses."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from rhoselect.client.client import SelectionClient
from rhoselect.errors import ConfigError


def batch_of(settings: Any) -> int:
    """n_b: the points of an optimizer's step, over all processes."""
    parts = settings.gradient_accumulation_steps * settings.world_size
    return int(settings.per_device_train_batch_size * parts)


def steps_of(settings: Any, points: int, n_B: int) -> tuple[int, int]:
    """The steps of an epoch, which is a pass over the candidates, and of the whole training."""
    epoch = max(1, points // n_B)
    if settings.max_steps > 0:
        return epoch, settings.max_steps
    return epoch, math.ceil(settings.num_train_epochs * epoch)


def section_of(given: Mapping[str, Any] | None, settings: Any, il: bool) -> dict[str, Any]:
    """The configuration's section ``selection`` with what is not given: a tenth of the candidates,
    and, without irreducible losses, the loss as the method."""
    n_b = batch_of(settings)
    section = given or {"n_B": 10 * n_b, "chunk": settings.per_device_train_batch_size}
    method = {} if il else {"function": "loss"}
    return {**method, **section, "n_b": n_b}


def check_arguments(settings: Any, selection: Mapping[str, Any]) -> None:
    """Raise ConfigError for arguments of the Trainer that selection cannot follow."""
    batch = batch_of(settings)
    n_b, words_of_n_b = selection.get("n_b", batch), f"per_device_train_batch_size = {batch}"
    if batch > settings.per_device_train_batch_size:
        words_of_n_b = f"batch_size * gradient_accumulation_steps * processes = {batch}"
    order = "group_by_length" if getattr(settings, "group_by_length", False) else "random"
    order = getattr(settings, "train_sampling_strategy", order)
    on_signal = getattr(settings, "enable_jit_checkpoint", False)
    for name, got, allowed, words in (
        ("n_gpu", settings.n_gpu, settings.n_gpu <= 1, "one device a process: use torchrun"),
        ("auto_find_batch_size", True, not settings.auto_find_batch_size, "False"),
        ("enable_jit_checkpoint", True, not on_signal, "False: it saves within a step"),
        ("train_sampling_strategy", order, order == "random", '"random": it chooses the points'),
        ("selection.n_b", n_b, n_b == batch, words_of_n_b),
    ):
        if not allowed:
            raise ConfigError(f"{name}: got {got}, allowed with selection {words}")


def warn_of_loss_alone() -> None:
    """Tell the user what a training without irreducible losses learns by."""
    warnings.warn(
        "irreducible_losses: got none, so points are chosen by their loss alone, which prefers"
        " wrong labels; make some with fit_irreducible_losses of this module, or name a"
        ' method, as in selection={"function": "uniform", …}',
        stacklevel=3,
    )


def follows_count(model: nn.Module, inputs: Mapping[str, Any]) -> bool:
    """Whether the loss of a model that takes ``num_items_in_batch`` is divided by it."""
    found: list[Any] = []
    training = model.training
    model.eval()
    with torch.no_grad():
        for count in (2.0, 4.0):
            output = model(**inputs, num_items_in_batch=torch.tensor(count))
            found.append(output.get("loss") if isinstance(output, dict) else output[0])
    model.train(training)
    return found[0] is None or not torch.equal(found[0], found[1])


def check_served(selection: SelectionClient, settings: Any, steps: int) -> None:
    """Raise ConfigError unless a service selects for this training. Warns of checkpoints that
    cannot be resumed from."""
    served, n_b = selection.config, batch_of(settings)
    for key, got, wanted in (
        ("selection.n_b", served.selection.n_b, n_b),
        ("trainer.steps", served.trainer.steps, steps),
    ):
        if got != wanted:
            raise ConfigError(
                f"{key}: got {got} of the service, allowed the {wanted} of these"
                f" TrainingArguments; serve with --set {key}={wanted}, or change them"
            )
    if served.selection.lag and settings.save_strategy != "no":
        warnings.warn(
            f"selection.lag: got {served.selection.lag} of the service, so checkpoints have weights"
            " but no state of the selection, and no training can go on from them; for that serve"
            " with --set selection.lag=0",
            stacklevel=2,
        )
