"""Sequences of tokens, each predicted from those before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhoselect.errors import ModelError
from rhoselect.nest import Nest
from rhoselect.tasks.pieces import check_head, token_losses
from rhoselect.tasks.sequences import SequenceTask, logits_for
from rhoselect.types import Batch, Losses


class CausalLM(SequenceTask):
    """Examples are sequences of token ids, alone or as ``input_ids`` of a dict, of any length.

    A dict's ``document_ids`` number the documents that were packed into a sequence: tokens see
    their own document alone, and its first one is not predicted. ``padding`` is the id that fills
    a batch up to its longest sequence. The loss of a sequence is the mean over its tokens, in nats;
    ``perplexity`` is over all tokens. ``whole`` takes the logits of the model's own forward.
    """

    def __init__(self, padding: int = 0, whole: bool = False) -> None:
        super().__init__(padding)
        self._whole = whole

    def collate(self, examples: Sequence[Any]) -> Nest:
        """``input_ids`` and ``attention_mask`` [C, T], and ``document_ids`` where there are any.
        Raises DataError."""
        content = super().collate(examples)
        if isinstance(examples[0], Mapping) and "document_ids" in examples[0]:
            documents = [torch.as_tensor(example["document_ids"]) for example in examples]
            content["document_ids"] = self.joined(documents)
        return content

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        """The mean loss [C] of each sequence, and those of its tokens [C, T], of which ``mask`` has
        the predicted ones: never the first. Raises ModelError."""
        ids, inputs = batch.content["input_ids"], _inputs(batch.content)
        mask = _predicted(batch.content)
        found = token_losses(model, inputs, ids[:, 1:], self._whole)
        tokens = torch.where(mask, F.pad(found, (1, 0)), 0.0)
        return Losses(tokens.sum(1) / mask.sum(1).clamp(min=1), tokens=tokens, mask=mask)

    def check(self, model: nn.Module, batch: Batch, outputs: int) -> None:
        """Raise ModelError unless logits are [C, T, V], body and head give the same ones, and
        tokens do not see other documents of a packed sequence. Computes the first row alone."""
        inputs = {name: each[:1] for name, each in _inputs(batch.content).items()}
        logits = logits_for(model, inputs)
        check_head(model, inputs, logits, self._whole)
        if "document_ids" in batch.content:
            self._check_documents(model, inputs["input_ids"], logits.shape[-1])

    def _check_documents(self, model: nn.Module, ids: Tensor, vocabulary: int) -> None:
        """Raise ModelError if losses in the second half of ``ids`` [1, T] change with the first
        half, though that is another document."""
        half = ids.shape[1] // 2
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        first, seen = places < half, torch.ones_like(ids)

        def losses(these: Tensor) -> Tensor:
            content = {"input_ids": these, "attention_mask": seen, "document_ids": (~first).long()}
            return token_losses(model, _inputs(content), these[:, 1:], self._whole)[:, half:]

        own, others = losses(ids), losses(torch.where(first, (ids + 1) % vocabulary, ids))
        if ((own - others).abs() > 1e-5 * own.abs().clamp(min=1)).any():
            raise ModelError(
                "its model lets tokens see other documents of a packed sequence, allowed an"
                " attention_mask [C, 1, T, T] of bool that is obeyed; of transformers make it with"
                " attn_implementation = 'sdpa', or train on sequences without document_ids"
            )


def _predicted(content: Mapping[str, Tensor]) -> Tensor:
    """Which tokens [C, T] are predicted: those after another one of their document."""
    mask = content["attention_mask"].bool()
    mask = mask & F.pad(mask[:, :-1], (1, 0))
    if "document_ids" in content:
        documents = content["document_ids"]
        mask = mask & F.pad(documents[:, 1:] == documents[:, :-1], (1, 0))
    return mask


def _inputs(content: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The keywords of the model. Of packed sequences the mask is [C, 1, T, T], and positions count
    from 0 in each document."""
    ids, mask = content["input_ids"], content["attention_mask"]
    if "document_ids" not in content:
        return {"input_ids": ids, "attention_mask": mask}
    documents, length = content["document_ids"], ids.shape[1]
    places = torch.arange(length, device=ids.device)
    begins = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
    firsts = torch.where(begins, places, 0).cummax(1).values
    own = documents[:, :, None] == documents[:, None, :]
    seen = own & (places[:, None] >= places) & mask[:, None, :].bool()
    seen = seen | torch.eye(length, dtype=torch.bool, device=ids.device)  # padding sees itself
    return {"input_ids": ids, "attention_mask": seen[:, None], "position_ids": places - firsts}
