"""What tasks of token sequences share: batches of them, logits of tokens, perplexity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rhoselect.errors import DataError, ModelError
from rhoselect.importing import one_line
from rhoselect.nest import Nest
from rhoselect.tasks.base import Metrics, Task, losses_of, output_of, total
from rhoselect.types import Batch


class SequenceTask(Task):
    """A task with a loss for each token. ``padding`` is the id that fills a batch up to its longest
    sequence; ``perplexity`` is over all tokens that are predicted."""

    metric = "perplexity"

    def __init__(self, padding: int) -> None:
        self.padding = padding

    def collate(self, examples: Sequence[Any]) -> Nest:
        """``input_ids`` and ``attention_mask`` [C, T]. Raises DataError."""
        sequences = [ids_of(example) for example in examples]
        lengths = torch.tensor([len(ids) for ids in sequences])
        return {
            "input_ids": self.joined(sequences),
            "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
        }

    def joined(self, sequences: Sequence[Tensor]) -> Tensor:
        """Sequences [T] as rows [C, T]."""
        return nn.utils.rnn.pad_sequence(
            list(sequences), batch_first=True, padding_value=self.padding
        )

    def tokens(self, batch: Batch) -> Tensor:
        """How many tokens [C] there are, without what fills a batch up."""
        counts: Tensor = batch.content["attention_mask"].sum(1)
        return counts

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Metrics:
        """``perplexity`` and ``loss``, the mean over all predicted tokens in nats."""
        sums, counts = [], []
        for batch in batches:
            found = losses_of(self, model, batch)
            assert found.tokens is not None and found.mask is not None
            sums.append(found.tokens.double().sum())
            counts.append(found.mask.sum())
        loss = total(sums) / max(1, total(counts))
        return {"perplexity": math.exp(min(loss, 700.0)), "loss": loss}


def ids_of(example: Any, name: str = "input_ids") -> Tensor:
    """The token ids [T] of an example, of a dict those of this name. Raises DataError."""
    try:
        given = example[name] if isinstance(example, Mapping) else example
        ids = torch.as_tensor(given)
    except Exception as error:  # the user's data: anything may come out of it
        raise DataError(
            f'got {one_line(error)}, allowed token ids [T], alone or as "{name}" of a dict; give'
            " the data set such items, or choose another task.name"
        ) from None
    if ids.ndim != 1 or not len(ids) or ids.is_floating_point():
        raise DataError(
            f"got tokens {list(ids.shape)} of {ids.dtype}, allowed one or more token ids [T], alone"
            f' or as "{name}" of a dict'
        )
    return ids.long()


def logits_for(model: nn.Module, inputs: Mapping[str, Tensor], name: str = "input_ids") -> Tensor:
    """The logits [C, T, V] of ``inputs``, of which those of this name are [C, T]. Raises
    ModelError."""
    logits, shape = output_of(model, inputs), list(inputs[name].shape)
    if not isinstance(logits, Tensor) or list(logits.shape[:-1]) != shape:
        got = f"{list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"for tokens {shape} its model returns {got}, allowed float logits {[*shape, 'V']};"
            " return one row of token scores a token"
        )
    return logits
