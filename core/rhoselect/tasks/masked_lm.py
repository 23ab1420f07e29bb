"""Sequences of tokens of which some are hidden, each predicted from all others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhoselect.errors import ConfigError
from rhoselect.nest import Nest
from rhoselect.tasks.padding import IGNORED
from rhoselect.tasks.sequences import SequenceTask, ids_of, logits_for
from rhoselect.types import Batch, Losses


class MaskedLM(SequenceTask):
    """Examples are sequences of token ids, alone or as ``input_ids`` of a dict, of any length.

    A ``share`` of the tokens of each, at least one, is replaced by the id ``mask``, never those of
    ``special``. Which ones depends on the sequence alone: it is scored and trained on with the same
    tokens hidden, in every epoch. The loss of a sequence is the mean over them, in nats.
    """

    def __init__(
        self, mask: int, share: float = 0.15, special: Sequence[int] = (), padding: int = 0
    ) -> None:
        super().__init__(padding)
        if not 0 < share <= 1:
            raise ConfigError(f"task.args.share: got {share}, allowed above 0 and at most 1")
        self._mask, self._share = mask, share
        self._special = torch.tensor([mask, padding, *special])

    def collate(self, examples: Sequence[Any]) -> Nest:
        """``input_ids``, ``attention_mask`` and ``labels`` [C, T]: the ids that are hidden, else
        -100. Raises DataError."""
        sequences = [ids_of(example) for example in examples]
        hidden = nn.utils.rnn.pad_sequence(list(map(self._hidden, sequences)), batch_first=True)
        content = super().collate(sequences)
        ids = content["input_ids"]
        seen = {"input_ids": ids.masked_fill(hidden, self._mask)}
        return {**content, **seen, "labels": ids.masked_fill(~hidden, IGNORED)}

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        """The mean loss [C] of each sequence, and those of its tokens [C, T], of which ``mask`` has
        the hidden ones. Raises ModelError."""
        labels, mask = batch.labels, batch.labels != IGNORED
        logits = logits_for(model, batch.inputs)[mask].float()  # [M, V] of M hidden tokens
        found = F.cross_entropy(logits, labels[mask], reduction="none")
        tokens = torch.zeros(labels.shape, device=found.device).masked_scatter(mask, found)
        return Losses(tokens.sum(1) / mask.sum(1).clamp(min=1), tokens=tokens, mask=mask)

    def _hidden(self, ids: Tensor) -> Tensor:
        """Which tokens [T] of ``ids`` [T] are hidden: a function of them alone."""
        free = ~torch.isin(ids, self._special)
        count = min(int(free.sum()), max(1, round(self._share * int(free.sum()))))
        digest = hashlib.sha256(ids.numpy().tobytes()).digest()
        random = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        ranks = torch.rand(len(ids), generator=random).masked_fill(~free, 2.0)
        return torch.zeros(len(ids), dtype=torch.bool).scatter(0, ranks.argsort()[:count], True)
