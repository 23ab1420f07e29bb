"""transformers' Trainer with selection, and irreducible losses for it: extra ``hugging-face``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from rhoselect.client import trainer_checkpoints as checkpoints
from rhoselect.client.batch import SelectionBatch
from rhoselect.client.client import SelectionClient
from rhoselect.client.epochs import Epochs, loader_of, taken
from rhoselect.client.hub_fit import fit_irreducible_losses
from rhoselect.client.options import check_together, checked
from rhoselect.client.own_model import unwrapped
from rhoselect.client.trainer_arguments import (
    check_arguments,
    check_served,
    follows_count,
    section_of,
    steps_of,
    warn_of_loss_alone,
)
from rhoselect.client.user_data import LossFunction
from rhoselect.client.usual_losses import causal_lm_losses, classification_losses, usual_losses
from rhoselect.config import parse
from rhoselect.errors import ConfigError, DataError
from rhoselect.trainer.own_loop import GIVEN_DATA

__all__ = [
    "SelectionTrainer",
    "causal_lm_losses",
    "classification_losses",
    "fit_irreducible_losses",
    "usual_losses",
]

OPTIONS = ("run_dir", "workers", "token_file", "tls_ca", "tls_cert", "tls_key", "timeout_s")
"""What a ``SelectionTrainer`` takes as ``SelectionClient`` does."""


class SelectionTrainer(Trainer):  # type: ignore[misc]
    """A ``transformers.Trainer`` that trains on the points most worth learning.

    ``selection`` is the configuration's section of that name, as in {"n_B": 320, "chunk": 32}; by
    default n_B is 10 n_b. n_b is the batch of an optimizer's step, ``per_device_train_batch_size``
    times ``gradient_accumulation_steps`` times processes, as under torchrun; data, columns,
    collator and seed are the Trainer's. An epoch is one pass over the candidates: N // n_B steps.
    This process scores, or ``workers`` threads of it on the CPU, by ``losses(model, batch)`` ->
    [C], where ``batch.inputs`` is what the collator gives, minus ``irreducible_losses`` (see
    ``SelectionClient``). Without ``losses`` they are those of a causal language model or of a
    sequence classifier. If a method samples, the training loss is the mean of these losses times
    their weights.

    With an ``address`` the service there scores, by its own configuration, and ``train_dataset`` is
    its train split. ``token_file``, ``run_dir`` and other options are those of ``SelectionClient``.

    Each ``train`` is a run of its own, with the evaluations in its run folder. Checkpoints have the
    selection's state, and ``resume_from_checkpoint`` goes on exactly. Raises UserError
    like ``SelectionClient``.
    """

    def __init__(
        self,
        *args: Any,
        selection: Mapping[str, Any] | None = None,
        irreducible_losses: Any = None,
        losses: LossFunction | None = None,
        address: str | None = None,
        **kwargs: Any,
    ) -> None:
        options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
        super().__init__(*args, **kwargs)
        self._losses, self._address, self._options = losses, address, options
        self._il, self._selection = irreducible_losses, selection
        self._state: Any = 0
        self._epochs: Epochs | None = None
        check_arguments(self.args, selection or {})
        if self.compute_loss_func is not None and losses is None:
            raise ConfigError(
                "losses: got none with compute_loss_func, allowed losses(model, batch) -> [C]: the"
                " loss of each point that it is to learn by, in this process"
            )
        if not hasattr(self.train_dataset, "__len__"):
            got = "none" if self.train_dataset is None else f"a {type(self.train_dataset).__name__}"
            raise DataError(f"train_dataset: got {got}, allowed a map-style data set")
        self.add_callback(_Telling(self))
        if address is not None:
            given: Any = {**options, "irreducible_losses": irreducible_losses, "losses": losses}
            check_together(False, address, selection, True, checked(given))
        else:  # a mistake is found now; at a service this would end a training that goes on
            if irreducible_losses is None and "function" not in (selection or {}):
                warn_of_loss_alone()
            self._opened(**{**options, "run_dir": None})[0].selection.close()
        self._count_parts()

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """Train, from the first step on or from that of a checkpoint: of True the newest whole one.
        Raises ConfigError for one that is not whole or has no state of a selection."""
        checkpoint = checkpoints.chosen(resume_from_checkpoint, self.args.output_dir)
        self._state = checkpoints.state_in(checkpoint)
        try:
            return super().train(resume_from_checkpoint=checkpoint or None, **kwargs)
        finally:
            if self._epochs is not None:
                self._epochs.selection.close()

    def get_train_dataloader(self) -> Any:
        """The selected batches of a run, in place of those of the data set."""
        self._epochs, loader = self._opened(**self._options)
        if self._state and not self.args.ignore_data_skip:
            self._epochs.skipped = self._state["step"] % self._epochs.steps * self._epochs.parts
        return loader_of(self._epochs, loader)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log how the batches were selected beside their loss."""
        told = self._epochs.told() if self._epochs and "loss" in logs else {}
        super().log({**logs, **told}, *args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The Trainer's own loss, or the weighted mean of ``losses`` if the batch was sampled."""
        inputs, sampled = taken(inputs)
        if sampled is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        indices, weights = sampled
        batch = SelectionBatch(-1, indices.cpu(), inputs, None, weights)
        loss = (self._training_losses(model, batch) * weights).mean()
        own = self.compute_loss_func is not None
        if own or (self.model_accepts_loss_kwargs and num_items_in_batch is not None):
            return loss / self.args.gradient_accumulation_steps  # else the Trainer does so
        return loss

    def _training_losses(self, model: nn.Module, batch: SelectionBatch) -> Tensor:
        """The losses [n] of a part that was sampled. Raises ConfigError."""
        smoothing = self.args.label_smoothing_factor if self.label_smoother is not None else 0.0
        if self._losses is None:
            return usual_losses(model, batch, smoothing)
        if smoothing:
            raise ConfigError(
                f"label_smoothing_factor: got {smoothing}, allowed 0 with losses=… and a method"
                " that samples, whose weights are of these losses; smooth them yourself"
            )
        found: Tensor = self._losses(model, batch)
        return found

    def _save_checkpoint(self, model: Any, trial: Any, *args: Any, **kwargs: Any) -> None:
        """Write the state of the selection, and then that of the Trainer."""
        if self._epochs is not None and self.args.should_save:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            selection = self._epochs.selection
            known = self._address is None or not selection.config.selection.lag
            checkpoints.begin(folder, selection.state_dict() if known else None)
        super()._save_checkpoint(model, trial, *args, **kwargs)

    def _count_parts(self) -> None:
        """Let the Trainer divide the loss by the micro-batches of a step, and not multiply it by
        the processes, where the model does not use the count of items.

        It believes a forward that takes that count. Some ignore it, a BERT's among them, and with
        them the gradient would be as many times too long (transformers issue 47688).
        """
        takes = getattr(self, "model_accepts_loss_kwargs", False)
        usual = self.label_smoother is None and self.compute_loss_func is None
        parts = self.args.gradient_accumulation_steps * self.args.world_size
        if parts > 1 and takes and usual:
            loader = super().get_train_dataloader()
            two = loader.collate_fn([loader.dataset[place] for place in range(2)])
            inputs = self._prepare_inputs(two)
            self.model_accepts_loss_kwargs = follows_count(unwrapped(self.model), inputs)

    def _opened(self, **options: Any) -> tuple[Epochs, Any]:
        """A new run over what the Trainer's own DataLoader reads, and this: with its columns and
        collator."""
        loader, settings = super().get_train_dataloader(), self.args
        points = len(loader.dataset) if hasattr(loader.dataset, "__len__") else 0
        options |= {"data": loader.dataset, "collate_fn": loader.collate_fn, "step": self._state}
        if self._address is not None:
            selection = SelectionClient(self.model, self._address, **options)
            n_B = selection.config.selection.n_B
            check_served(selection, settings, steps_of(settings, points, n_B)[1])
        else:
            section = section_of(self._selection, settings, self._il is not None)
            tree: dict[str, Any] = {"seed": settings.seed, "selection": section}
            n_B = parse(tree | {"data": {"dataset": GIVEN_DATA}}).selection.n_B
            tree["trainer"] = {"steps": steps_of(settings, points, n_B)[1]}
            options |= {"losses": self._losses or usual_losses, "irreducible_losses": self._il}
            selection = SelectionClient(self.model, local=True, config=tree, **options)
        epoch_steps = steps_of(settings, points, n_B)[0]
        return Epochs(selection, epoch_steps, settings.gradient_accumulation_steps), loader


class _Telling(TrainerCallback):  # type: ignore[misc]
    """Tells the selection of steps and evaluations."""

    def __init__(self, trainer: SelectionTrainer) -> None:
        self._trainer = trainer

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any
    ) -> None:
        """The optimizer has taken its step."""
        assert self._trainer._epochs is not None, "it has given a batch"
        self._trainer._epochs.selection.step(model)

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
        if self._trainer._epochs is not None:
            self._trainer._epochs.selection.log(state.global_step, **numbers)
