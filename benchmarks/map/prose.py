"""Sequences of bytes in a folder of points, whose labels say nothing, as a task."""

from __future__ import annotations

import torch
from examples.gpt_debian import Bytes
from torch import Tensor, nn

from rhoselect.tasks import Batch, Losses


class Prose(Bytes):
    """The causal language model of bytes [C, 128]."""

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        """See `CausalLM.losses`."""
        return super().losses(model, _sequences(batch))

    def check(self, model: nn.Module, batch: Batch, outputs: int) -> None:
        """See `CausalLM.check`."""
        super().check(model, _sequences(batch), outputs)

    def tokens(self, batch: Batch) -> Tensor:
        """See `SequenceTask.tokens`."""
        return super().tokens(_sequences(batch))


def _sequences(batch: Batch) -> Batch:
    ids, _ = batch.content
    content = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Batch(batch.indices, content)
