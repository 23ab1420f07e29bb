"""transformers' Trainer with selection: extra ``hugging-face``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from rhoselect.client.batch import SelectionBatch
from rhoselect.client.client import SelectionClient
from rhoselect.client.user_data import Losses
from rhoselect.errors import ConfigError, ModelError


def classification_losses(model: nn.Module, batch: SelectionBatch) -> Tensor:
    """Cross-entropies [C] of a sequence classifier on inputs with ``labels`` [C]."""
    inputs = dict(batch.inputs)
    labels = inputs.pop("labels")
    logits = model(**inputs).logits.float()
    if logits.ndim != 2:
        raise ModelError(
            f"losses: got none and a model with logits {list(logits.shape)}, allowed [C, K] of a"
            " classifier; give losses(model, batch) -> [C] for others"
        )
    return F.cross_entropy(logits, labels, reduction="none")


class SelectionTrainer(Trainer):  # type: ignore[misc]
    """A ``transformers.Trainer`` that trains on the points most worth learning.

    ``selection`` is the configuration's section of that name, as in {"n_B": 320, "chunk": 32};
    n_b is ``per_device_train_batch_size``, the steps are ``max_steps``, and data, collator and seed
    are the Trainer's. Points are scored in this process, by ``losses(model, batch)`` -> [C], where
    ``batch.inputs`` is what the collator gives, minus ``irreducible_losses`` [N].

    One process, no gradient accumulation, no ``resume_from_checkpoint``. Raises UserError like
    ``SelectionClient``.
    """

    def __init__(
        self,
        *args: Any,
        selection: Mapping[str, Any],
        irreducible_losses: Any = None,
        losses: Losses = classification_losses,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        settings = self.args
        for name, got, allowed in (
            ("max_steps", settings.max_steps, settings.max_steps > 0),
            ("world_size", settings.world_size, settings.world_size == 1),
            ("n_gpu", settings.n_gpu, settings.n_gpu <= 1),
            (
                "gradient_accumulation_steps",
                settings.gradient_accumulation_steps,
                settings.gradient_accumulation_steps == 1,
            ),
        ):
            if not allowed:
                raise ConfigError(
                    f"{name}: got {got}, allowed with selection a number of steps, one process and"
                    " no gradient accumulation"
                )
        n_b = settings.per_device_train_batch_size
        self._selection = SelectionClient(
            self.model,
            local=True,
            config={
                "seed": settings.seed,
                "selection": {**selection, "n_b": n_b},
                "trainer": {"steps": settings.max_steps},
            },
            data=self.train_dataset,
            collate_fn=self.data_collator,
            losses=losses,
            irreducible_losses=irreducible_losses,
        )
        self.add_callback(_AfterStep(self._selection))

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """Train; from the first step on."""
        if resume_from_checkpoint:
            raise ConfigError("resume_from_checkpoint: allowed None with selection")
        return super().train(**kwargs)

    def get_train_dataloader(self) -> Any:
        """The selected batches, in place of a DataLoader."""
        return _Batches(self._selection)


class _Batches:
    """What of a DataLoader the Trainer needs."""

    def __init__(self, selection: SelectionClient) -> None:
        self._selection = selection

    def __iter__(self) -> Iterator[Any]:
        return (batch.inputs for batch in self._selection)


class _AfterStep(TrainerCallback):  # type: ignore[misc]
    def __init__(self, selection: SelectionClient) -> None:
        self._selection = selection

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any
    ) -> None:
        """The optimizer has taken its step."""
        self._selection.step(model)
