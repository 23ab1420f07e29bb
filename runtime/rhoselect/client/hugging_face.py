"""transformers' Trainer with selection: extra ``hugging-face``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from rhoselect import config as configuration
from rhoselect.client.batch import SelectionBatch
from rhoselect.client.client import SelectionClient
from rhoselect.client.user_data import LossFunction
from rhoselect.errors import ConfigError, DataError
from rhoselect.tasks.classification import check_classes, check_range
from rhoselect.trainer.own_loop import GIVEN_DATA


def classification_losses(model: nn.Module, batch: SelectionBatch) -> Tensor:
    """Cross-entropies [C] of a sequence classifier on inputs with integer ``labels`` [C]. Raises
    ModelError."""
    inputs = dict(batch.inputs)
    labels = inputs.pop("labels", None)
    logits = model(**inputs).logits
    check_classes(logits, labels)
    check_range(labels, logits.shape[1])
    return F.cross_entropy(logits.float(), labels.long(), reduction="none")


class SelectionTrainer(Trainer):  # type: ignore[misc]
    """A ``transformers.Trainer`` that trains on the points most worth learning.

    ``selection`` is the configuration's section of that name, as in {"n_B": 320, "chunk": 32};
    n_b is ``per_device_train_batch_size``, and data, columns, collator and seed are the Trainer's.
    An epoch is one pass over the candidates: N // n_B steps. Points are scored in this process, by
    ``losses(model, batch)`` -> [C], where ``batch.inputs`` is what the collator gives, minus
    ``irreducible_losses`` (see ``SelectionClient``). If a method samples, the training loss is the
    mean of these losses times their weights.

    Each ``train`` is a run of its own, with the evaluations in its run folder, which ``run_dir``
    names as for ``SelectionClient``. One process, no gradient accumulation, no
    ``resume_from_checkpoint``. Raises UserError like ``SelectionClient``.
    """

    def __init__(
        self,
        *args: Any,
        selection: Mapping[str, Any],
        irreducible_losses: Any = None,
        losses: LossFunction = classification_losses,
        run_dir: Path | str | EllipsisType | None = ...,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._losses, self._irreducible_losses = losses, irreducible_losses
        _check_arguments(self.args, selection)
        if self.compute_loss_func is not None and losses is classification_losses:
            raise ConfigError(
                "losses: got none with compute_loss_func, allowed losses(model, batch) -> [C]: the"
                " loss of each point that it is to learn by"
            )
        self._selection = {**selection, "n_b": self.args.per_device_train_batch_size}
        self._run_dir = run_dir
        self._batches = self._open(run_dir=None)
        self.add_callback(_Telling(self))
        self._batches.selection.close()  # it was made to find mistakes before ``train``

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """Train, from the first step on."""
        if resume_from_checkpoint:
            raise ConfigError(
                f"resume_from_checkpoint: got {resume_from_checkpoint!r}, allowed None with"
                " selection"
            )
        try:
            return super().train(**kwargs)
        finally:
            self._batches.selection.close()

    def get_train_dataloader(self) -> Any:
        """The selected batches of a new run, in place of a DataLoader."""
        self._batches = self._open(self._run_dir)
        return self._batches

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """The Trainer's own loss, or the weighted mean of ``losses`` if the batch was sampled."""
        batch = self._batches.current
        if batch is None or not model.training or bool((batch.weights == 1).all()):
            return super().compute_loss(model, inputs, return_outputs, **kwargs)
        losses = self._losses(model, replace(batch, inputs=inputs))
        return (losses * batch.weights).mean()

    def _open(self, run_dir: Path | str | EllipsisType | None) -> _Batches:
        """A new run over what the Trainer's own DataLoader reads: with its columns and collator."""
        if self.train_dataset is None:
            raise DataError("train_dataset: got none, allowed a map-style data set")
        loader, settings = super().get_train_dataloader(), self.args
        points = len(loader.dataset) if hasattr(loader.dataset, "__len__") else 0
        tree = {"data": {"dataset": GIVEN_DATA}, "selection": self._selection}
        epoch_steps = max(1, points // configuration.parse(tree).selection.n_B)
        steps = settings.max_steps
        if steps <= 0:
            steps = math.ceil(settings.num_train_epochs * epoch_steps)
        selection = SelectionClient(
            self.model,
            local=True,
            config={
                "seed": settings.seed,
                "selection": self._selection,
                "trainer": {"steps": steps},
            },
            data=loader.dataset,
            collate_fn=loader.collate_fn,
            losses=self._losses,
            irreducible_losses=self._irreducible_losses,
            run_dir=run_dir,
        )
        return _Batches(selection, loader.dataset, epoch_steps)


class _Batches:
    """What of a DataLoader the Trainer needs: an iteration is an epoch."""

    def __init__(self, selection: SelectionClient, dataset: Any, epoch_steps: int) -> None:
        self.selection, self.dataset, self._epoch_steps = selection, dataset, epoch_steps
        self.current: SelectionBatch | None = None

    def __len__(self) -> int:
        return self._epoch_steps

    def __iter__(self) -> Iterator[Any]:
        for batch in islice(self.selection, self._epoch_steps):
            self.current = batch
            yield batch.inputs


class _Telling(TrainerCallback):  # type: ignore[misc]
    """Tells the selection of steps and evaluations."""

    def __init__(self, trainer: SelectionTrainer) -> None:
        self._trainer = trainer

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any
    ) -> None:
        """The optimizer has taken its step."""
        self._trainer._batches.selection.step(model)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any], **kwargs: Any
    ) -> None:
        """Record the numbers of an evaluation: "eval_accuracy" is its accuracy."""
        numbers = {
            name.removeprefix("eval_"): float(value)
            for name, value in metrics.items()
            if isinstance(value, int | float)
        }
        if not 0 <= numbers.get("accuracy", 0.0) <= 1:  # such as percents: no share to compare
            numbers["eval_accuracy"] = numbers.pop("accuracy")
        self._trainer._batches.selection.log(state.global_step, **numbers)


def _check_arguments(settings: Any, selection: Mapping[str, Any]) -> None:
    """Raise ConfigError for arguments of the Trainer that selection cannot follow."""
    batch = settings.per_device_train_batch_size
    n_b, more = selection.get("n_b", batch), settings.gradient_accumulation_steps
    order = "group_by_length" if getattr(settings, "group_by_length", False) else "random"
    order = getattr(settings, "train_sampling_strategy", order)
    for name, got, allowed, words in (
        ("world_size", settings.world_size, settings.world_size == 1, "one process"),
        ("n_gpu", settings.n_gpu, settings.n_gpu <= 1, "one device"),
        ("gradient_accumulation_steps", more, more == 1, "1"),
        ("auto_find_batch_size", True, not settings.auto_find_batch_size, "False"),
        ("train_sampling_strategy", order, order == "random", '"random": it chooses the points'),
        ("selection.n_b", n_b, n_b == batch, f"per_device_train_batch_size = {batch}"),
    ):
        if not allowed:
            raise ConfigError(f"{name}: got {got}, allowed with selection {words}")
