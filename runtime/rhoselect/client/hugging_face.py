"""transformers' Trainer with selection: extra ``hugging-face``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer_utils import get_last_checkpoint

from rhoselect import config as configuration
from rhoselect.client.batch import SelectionBatch
from rhoselect.client.client import SelectionClient
from rhoselect.client.epochs import Epochs, loader_of, taken
from rhoselect.client.own_model import unwrapped
from rhoselect.client.user_data import LossFunction
from rhoselect.errors import ConfigError, DataError
from rhoselect.tasks.classification import check_classes, check_range
from rhoselect.trainer.own_loop import GIVEN_DATA

STATE = "selection.pt"
"""The file of a checkpoint of the Trainer that has the state of its selection."""
IGNORED = -100  # the label of a token that no loss counts


def classification_losses(model: nn.Module, batch: SelectionBatch) -> Tensor:
    """Cross-entropies [C] of a sequence classifier on inputs with integer ``labels`` [C]. Raises
    ModelError."""
    inputs = dict(batch.inputs)
    labels = inputs.pop("labels", None)
    logits = model(**inputs).logits
    check_classes(logits, labels)
    check_range(labels, logits.shape[1])
    return F.cross_entropy(logits.float(), labels.long(), reduction="none")


def causal_lm_losses(model: nn.Module, batch: SelectionBatch) -> Tensor:
    """Mean cross-entropies [C] of the tokens of each sequence, of inputs with ``labels`` [C, T], in
    which -100 is not counted."""
    inputs = dict(batch.inputs)
    labels = inputs.pop("labels")[:, 1:]
    logits = model(**inputs).logits[:, :-1].float()
    tokens = F.cross_entropy(logits.mT, labels, reduction="none", ignore_index=IGNORED)
    means: Tensor = tokens.sum(1) / (labels != IGNORED).sum(1).clamp(min=1)
    return means


def usual_losses(model: nn.Module, batch: SelectionBatch) -> Tensor:
    """``causal_lm_losses`` of a causal language model, ``classification_losses`` of any other."""
    bare = unwrapped(model)
    adapted = getattr(getattr(bare, "base_model", None), "model", None)  # by PEFT
    names = {type(bare).__name__, type(adapted).__name__}
    causal = names & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    return (causal_lm_losses if causal else classification_losses)(model, batch)


class SelectionTrainer(Trainer):  # type: ignore[misc]
    """A ``transformers.Trainer`` that trains on the points most worth learning.

    ``selection`` is the configuration's section of that name, as in {"n_B": 320, "chunk": 32}; by
    default n_B is 10 n_b. n_b is the batch of an optimizer's step, ``per_device_train_batch_size``
    times ``gradient_accumulation_steps``; data, columns, collator and seed are the Trainer's. An
    epoch is one pass over the candidates: N // n_B steps. This process scores, or ``workers``
    threads of it on the CPU, by ``losses(model, batch)`` -> [C], where ``batch.inputs`` is what the
    collator gives, minus ``irreducible_losses`` (see ``SelectionClient``). Without ``losses`` they
    are those of a causal language model or of a sequence classifier. If a method samples, the
    training loss is the mean of these losses times their weights.

    Each ``train`` is a run of its own, with the evaluations in its run folder, which ``run_dir``
    names as for ``SelectionClient``. Checkpoints have the selection's state, and
    ``resume_from_checkpoint`` goes on exactly. One process. Raises UserError like
    ``SelectionClient``.
    """

    def __init__(
        self,
        *args: Any,
        selection: Mapping[str, Any] | None = None,
        irreducible_losses: Any = None,
        losses: LossFunction | None = None,
        run_dir: Path | str | EllipsisType | None = ...,
        workers: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._losses, self._irreducible_losses = losses or usual_losses, irreducible_losses
        batch = self.args.per_device_train_batch_size
        n_b = batch * self.args.gradient_accumulation_steps
        if selection is None:
            selection = {"n_B": 10 * n_b, "chunk": batch}
        _check_arguments(self.args, selection, n_b)
        if self.compute_loss_func is not None and losses is None:
            raise ConfigError(
                "losses: got none with compute_loss_func, allowed losses(model, batch) -> [C]: the"
                " loss of each point that it is to learn by"
            )
        self._selection = {**selection, "n_b": n_b}
        self._run_dir, self._workers = run_dir, workers
        self._state: Any = 0
        self._open(run_dir=None)
        self.add_callback(_Telling(self))
        self._epochs.selection.close()  # it was made to find mistakes before ``train``

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """Train, from the first step on or from that of a checkpoint. Raises ConfigError for one
        without the selection's state."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir) or True
        self._state = _state_in(resume_from_checkpoint)
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)
        finally:
            self._epochs.selection.close()

    def get_train_dataloader(self) -> Any:
        """The selected batches of a run, in place of those of the data set."""
        loader = self._open(self._run_dir)
        if self._state and not self.args.ignore_data_skip:
            self._epochs.skipped = self._state["step"] % self._epochs.steps * self._epochs.parts
        return loader

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log how the last batch was selected beside the loss of the batches."""
        super().log({**logs, **self._epochs.told()} if "loss" in logs else logs, *args, **kwargs)

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
        if self.label_smoother is not None:
            raise ConfigError(
                f"label_smoothing_factor: got {self.args.label_smoothing_factor}, allowed 0 with a"
                " method that samples, whose weights are of each point's loss"
            )
        indices, weights = sampled
        batch = SelectionBatch(-1, indices.cpu(), inputs, None, weights)
        loss = (self._losses(model, batch) * weights).mean()
        own = self.compute_loss_func is not None
        if own or (self.model_accepts_loss_kwargs and num_items_in_batch is not None):
            return loss / self._epochs.parts  # the Trainer does so in other cases alone
        return loss

    def _open(self, run_dir: Path | str | EllipsisType | None) -> Any:
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
            step=self._state,
            workers=self._workers,
        )
        self._epochs = Epochs(selection, epoch_steps, settings.gradient_accumulation_steps)
        return loader_of(self._epochs, loader)


def _state_in(checkpoint: Any) -> Any:
    """The state of the selection in a checkpoint's folder, 0 for none. Raises ConfigError."""
    if not checkpoint or checkpoint is True:  # of True without checkpoints the Trainer complains
        return 0
    path = Path(checkpoint) / STATE
    if not path.is_file():
        raise ConfigError(
            f"resume_from_checkpoint: got {str(checkpoint)!r}, which has no {STATE}, allowed a"
            " checkpoint of a SelectionTrainer; begin a new run"
        )
    return torch.load(path, weights_only=True)


class _Telling(TrainerCallback):  # type: ignore[misc]
    """Tells the selection of steps, evaluations and checkpoints."""

    def __init__(self, trainer: SelectionTrainer) -> None:
        self._trainer = trainer

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any
    ) -> None:
        """The optimizer has taken its step."""
        self._trainer._epochs.selection.step(model)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the state of the selection beside that of the Trainer."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        torch.save(self._trainer._epochs.selection.state_dict(), folder / STATE)

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
        self._trainer._epochs.selection.log(state.global_step, **numbers)


def _check_arguments(settings: Any, selection: Mapping[str, Any], batch: int) -> None:
    """Raise ConfigError for arguments of the Trainer that selection cannot follow."""
    n_b, words_of_n_b = selection.get("n_b", batch), f"per_device_train_batch_size = {batch}"
    if settings.gradient_accumulation_steps > 1:
        words_of_n_b = f"batch_size * gradient_accumulation_steps = {batch}"
    order = "group_by_length" if getattr(settings, "group_by_length", False) else "random"
    order = getattr(settings, "train_sampling_strategy", order)
    for name, got, allowed, words in (
        ("world_size", settings.world_size, settings.world_size == 1, "one process"),
        ("n_gpu", settings.n_gpu, settings.n_gpu <= 1, "one device"),
        ("auto_find_batch_size", True, not settings.auto_find_batch_size, "False"),
        ("train_sampling_strategy", order, order == "random", '"random": it chooses the points'),
        ("selection.n_b", n_b, n_b == batch, words_of_n_b),
    ):
        if not allowed:
            raise ConfigError(f"{name}: got {got}, allowed with selection {words}")
