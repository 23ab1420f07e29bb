"""What is learnt, as one object: how examples become a batch, the loss of each of its points, and
what an evaluation measures.

Trainer, scorers, service, fits of irreducible losses, export and clients all use it. A task's own
code is that of one class; ``docs/tasks.md`` has one in twenty lines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from rhoselect.errors import DataError, ModelError, listed
from rhoselect.importing import one_line
from rhoselect.nest import Nest
from rhoselect.tasks.padding import padded
from rhoselect.types import Batch, Losses

Metrics = Mapping[str, Any]
"""What an evaluation found: numbers by name, the task's ``metric`` among them."""


class Task(ABC):
    """A task. Subclasses give ``losses``; the rest has defaults.

    ``metric`` is the main figure of an evaluation, and ``direction`` tells whether the greatest or
    the least is best.
    """

    metric: str = "loss"
    direction: Literal["max", "min"] = "min"
    least_outputs = 0
    """How many numbers, such as classes, a model has to give for each point at least."""

    def collate(self, examples: Sequence[Any]) -> Nest:
        """The content of a batch, on the CPU, of C examples as the data set gives them: by default
        torch's default_collate, of dicts with an ``attention_mask`` after ``padded``. Examples that
        are pairs give the pair (inputs, labels). Raises DataError."""
        try:
            whole = default_collate(padded(examples))
        except (RuntimeError, TypeError, KeyError) as error:
            raise DataError(
                f"got {one_line(error)}, allowed examples alike in shape, or dicts with an"
                ' "attention_mask", which are padded; or give the task a collate of your own'
            ) from None
        return tuple(whole) if type(examples[0]) is tuple else whole

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        """The losses [C] of C points, under the caller's precision and gradient mode.

        They must depend on weights and points alone: each on its own point, whatever others are in
        the batch and in which order, and on no random number but torch's in training mode.
        """

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Metrics:
        """What is measured on a split, whose points come in ``batches``, without gradients and in
        evaluation mode: by default the mean loss."""
        return {"loss": mean_loss(losses_of(self, model, batch) for batch in batches)}

    def label(self, example: Any) -> int | None:
        """The class of an example, from 0; None of a task without classes. Raises DataError."""
        return None

    def tokens(self, batch: Batch) -> Tensor | None:
        """How many tokens [C] the points of ``batch`` have; None of a task without tokens."""
        return None

    def outputs(self, batch: Batch) -> int:
        """How many numbers the model should give for each point of ``batch``, if the data set does
        not tell its classes; 0: the task does not say."""
        return 0

    def check(self, model: nn.Module, batch: Batch, outputs: int) -> None:
        """Raise ModelError for a model that does not suit the data, whose classes, or numbers to
        predict, are ``outputs``; 0 where that is not known."""
        return  # any model whose losses can be computed


def losses_of(task: Task, model: nn.Module, batch: Batch) -> Losses:
    """What ``task`` computes for C points; losses [C] float32. Raises ModelError for anything but
    one loss a point."""
    found: Any = task.losses(model, batch)  # the user's code: anything may come out of it
    losses, count = getattr(found, "losses", found), len(batch.indices)
    if not (isinstance(found, Losses) and isinstance(losses, Tensor) and losses.shape == (count,)):
        of = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ModelError(
            f"losses: for {count} points gave {of}, allowed Losses of a tensor [{count}]: one a"
            ' point, as with reduction="none"'
        )
    return replace(found, losses=losses.float())


def main_figure(task: Task, found: Metrics) -> float:
    """The main figure of what ``task`` measured. Raises ModelError if it is not there."""
    figure = found.get(task.metric)
    if not isinstance(figure, float | int):
        raise ModelError(
            f"task: its evaluation gave {listed(found)}, allowed a number {task.metric!r} among"
            " them, which is its metric"
        )
    return float(figure)


def mean_loss(found: Iterable[Losses]) -> float:
    """The mean loss of all points."""
    sums = [(each.losses.double().sum(), len(each.losses)) for each in found]
    return total(each for each, _ in sums) / sum(count for _, count in sums)


def total(sums: Iterable[Tensor]) -> float:
    """The sum of the batches' ``sums``, which are copied from a GPU once: a copy a batch would wait
    for each forward."""
    added = 0.0
    for each in torch.stack(list(sums)).tolist():
        added += each
    return added


def output_of(model: nn.Module, inputs: Nest) -> Any:
    """What the model gives for ``inputs``, of which a dict has its keywords: see ``logits_of``."""
    return logits_of(model(**inputs) if isinstance(inputs, Mapping) else model(inputs))


def logits_of(output: Any) -> Any:
    """A model's output, or the logits in it, as in a ModelOutput of transformers."""
    return output if isinstance(output, Tensor) else getattr(output, "logits", output)
