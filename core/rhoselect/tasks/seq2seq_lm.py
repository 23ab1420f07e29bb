"""Sequences of tokens that are written from others, such as translations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from rhoselect.errors import DataError
from rhoselect.nest import Nest
from rhoselect.tasks.padding import IGNORED
from rhoselect.tasks.pieces import check_head, token_losses
from rhoselect.tasks.sequences import SequenceTask, ids_of, logits_for
from rhoselect.types import Batch, Losses


class Seq2SeqLM(SequenceTask):
    """Examples are dicts: ``input_ids`` that are read and ``labels`` that are written, of any
    lengths; a label -100 is not counted.

    The model is given ``input_ids`` and ``attention_mask`` [C, S], and ``decoder_input_ids``
    [C, T]: the id ``start``, and then the labels but the last. ``padding`` fills up both. The loss
    of a point is the mean over its labels, in nats. ``whole``: see ``CausalLM``.
    """

    def __init__(self, start: int = 0, padding: int = 0, whole: bool = False) -> None:
        super().__init__(padding)
        self._start, self._whole = start, whole

    def collate(self, examples: Sequence[Any]) -> Nest:
        """``input_ids`` and ``attention_mask`` [C, S], and ``labels`` [C, T]. Raises DataError."""
        if not all(isinstance(example, Mapping) for example in examples):
            raise DataError(
                'got an item that is no dict, allowed dicts with token ids as "input_ids" and as'
                ' "labels"'
            )
        labels = [ids_of(example, "labels") for example in examples]
        rows = nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)
        return {**super().collate(examples), "labels": rows}

    def tokens(self, batch: Batch) -> Tensor:
        """How many tokens [C] are read and written."""
        written: Tensor = (batch.labels != IGNORED).sum(1)
        return super().tokens(batch) + written

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        """The mean loss [C] of each point, and those of its labels [C, T], of which ``mask`` has
        the counted ones. Raises ModelError."""
        labels, mask = batch.labels, batch.labels != IGNORED
        tokens = token_losses(model, self._inputs(batch), labels, self._whole)
        return Losses(tokens.sum(1) / mask.sum(1).clamp(min=1), tokens=tokens, mask=mask)

    def check(self, model: nn.Module, batch: Batch, outputs: int) -> None:
        """Raise ModelError unless logits are [C, T, V], and body and head give the same ones.
        Computes the first row alone."""
        inputs = {name: each[:1] for name, each in self._inputs(batch).items()}
        check_head(model, inputs, logits_for(model, inputs, "decoder_input_ids"), self._whole)

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        """The keywords of the model."""
        before = F.pad(batch.labels[:, :-1], (1, 0), value=self._start)
        return {**batch.inputs, "decoder_input_ids": before.masked_fill(before < 0, self.padding)}
