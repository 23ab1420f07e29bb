"""Sequences of tokens, each predicted from those before it.

Logits are made a piece at a time: [C, T, V] in float32 never exists. Where the model has a body and
a head, as the causal models of transformers have, the pieces are of tokens; else they are of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rhoselect.errors import DataError, ModelError
from rhoselect.nest import Nest
from rhoselect.tasks.base import Metrics, Task, losses_of, output_of
from rhoselect.types import Batch, Losses

PIECE = 1 << 24
"""Most logits at once: 64 MiB of float32."""
SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
"""Settings by which models of transformers change what their head gives."""


class CausalLM(Task):
    """Examples are sequences of token ids, alone or as ``input_ids`` of a dict, of any length.

    A dict's ``document_ids`` number the documents that were packed into a sequence: tokens see
    their own document alone, and its first one is not predicted. ``padding`` is the id that fills
    a batch up to its longest sequence. The loss of a sequence is the mean over its tokens, in nats;
    ``perplexity`` is over all tokens. ``whole`` takes the logits of the model's own forward.
    """

    metric = "perplexity"

    def __init__(self, padding: int = 0, whole: bool = False) -> None:
        self._padding, self._whole = padding, whole

    def collate(self, examples: Sequence[Any]) -> Nest:
        """``input_ids`` and ``attention_mask`` [C, T], and ``document_ids`` where there are any.
        Raises DataError."""
        sequences = [_ids(example) for example in examples]
        lengths = torch.tensor([len(ids) for ids in sequences])
        content = {
            "input_ids": self._joined(sequences),
            "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
        }
        if isinstance(examples[0], Mapping) and "document_ids" in examples[0]:
            documents = [torch.as_tensor(example["document_ids"]) for example in examples]
            content["document_ids"] = self._joined(documents)
        return content

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        """The mean loss [C] of each sequence, and those of its tokens [C, T], of which ``mask`` has
        the predicted ones: never the first. Raises ModelError."""
        ids, inputs = batch.content["input_ids"], _inputs(batch.content)
        mask = _predicted(batch.content)
        found = self._token_losses(model, inputs, ids)
        tokens = torch.where(mask, F.pad(found, (1, 0)), 0.0)
        return Losses(tokens.sum(1) / mask.sum(1).clamp(min=1), tokens=tokens, mask=mask)

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Metrics:
        """``perplexity`` and ``loss``, the mean over all tokens in nats."""
        total, count = 0.0, 0
        for batch in batches:
            found = losses_of(self, model, batch)
            assert found.tokens is not None and found.mask is not None
            total += found.tokens.double().sum().item()
            count += int(found.mask.sum())
        loss = total / max(1, count)
        return {"perplexity": math.exp(min(loss, 700.0)), "loss": loss}

    def check(self, model: nn.Module, batch: Batch, outputs: int) -> None:
        """Raise ModelError unless logits are [C, T, V], and body and head give the same ones."""
        inputs, ids = _inputs(batch.content), batch.content["input_ids"]
        logits = output_of(model, inputs)
        if not isinstance(logits, Tensor) or logits.shape[:-1] != ids.shape:
            got = f"{list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(
                f"for tokens {list(ids.shape)} its model returns {got}, allowed float logits"
                f" {[*ids.shape, 'V']}; return one row of token scores a token"
            )
        split = None if self._whole else _split(model)
        if split is not None:
            body, head = split
            logits, own = logits.float(), head(body(inputs)).float()
            if (own - logits).norm() > 0.05 * logits.norm():  # far above rounding, also of bf16
                raise ModelError(
                    "its model's head gives other logits than its forward, allowed the same; set"
                    " task.args.whole = true"
                )

    def _token_losses(self, model: nn.Module, inputs: dict[str, Tensor], ids: Tensor) -> Tensor:
        """The losses [C, T - 1] of all tokens but the first, padding included."""
        targets = ids[:, 1:]
        split = None if self._whole else _split(model)
        if split is not None:
            body, head = split
            hidden = body(inputs)[:, :-1]  # [C, T - 1, D]
            return _in_pieces(head, hidden.flatten(0, 1), targets.flatten()).view(targets.shape)
        found, row, rows = list[Tensor](), 0, 1  # the first row tells how many logits it has
        while row < len(ids):
            part = {name: tensor[row : row + rows] for name, tensor in inputs.items()}
            logits = output_of(model, part)[:, :-1].float()  # [rows, T - 1, V]
            wanted = targets[row : row + rows]
            found.append(F.cross_entropy(logits.transpose(1, 2), wanted, reduction="none"))
            row, rows = row + rows, max(1, PIECE // max(1, logits[0].numel()))
        return torch.cat(found)

    def _joined(self, sequences: Sequence[Tensor]) -> Tensor:
        return nn.utils.rnn.pad_sequence(
            list(sequences), batch_first=True, padding_value=self._padding
        )


def _ids(example: Any) -> Tensor:
    """The token ids [T] of an example. Raises DataError."""
    given = example["input_ids"] if isinstance(example, Mapping) else example
    ids = torch.as_tensor(given)
    if ids.ndim != 1 or not len(ids) or ids.is_floating_point():
        raise DataError(
            f"got tokens {list(ids.shape)} of {ids.dtype}, allowed one or more token ids [T], alone"
            ' or as "input_ids" of a dict'
        )
    return ids.long()


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


Body = Callable[[dict[str, Tensor]], Tensor]
Head = Callable[[Tensor], Tensor]


def _split(model: Any) -> tuple[Body, Head] | None:
    """What gives hidden states [C, T, D], and what makes logits of them; None of a model that is
    not known to have the two."""
    if hasattr(model, "get_base_model"):  # an adapter's
        model = model.get_base_model()
    if not hasattr(model, "config") or not hasattr(model, "get_output_embeddings"):
        return None
    body, head = getattr(model, "base_model", model), model.get_output_embeddings()
    scaled = any(getattr(model.config, name, None) not in (None, 1, 1.0) for name in SCALED)
    if body is model or head is None or scaled:
        return None

    def hidden(inputs: dict[str, Tensor]) -> Tensor:
        found: Tensor = body(**inputs, use_cache=False).last_hidden_state
        return found

    return hidden, head


def _in_pieces(head: Head, hidden: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropies [N] of ``targets`` [N] under ``head`` of ``hidden`` [N, D]. In training the
    logits of a piece are made again for its gradient."""
    head = _cast_once(head, hidden.device.type)

    def losses(part: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(head(part).float(), wanted, reduction="none")

    size = max(1, PIECE // head(hidden[:1].detach()).shape[-1])
    parts = zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([losses(*part) for part in parts])
    made = [
        checkpoint(losses, *part, use_reentrant=False, preserve_rng_state=False) for part in parts
    ]
    return torch.cat(made)


def _cast_once(head: Any, device: str) -> Head:
    """A linear head under autocast, which would cast its weight again for each piece."""
    if type(head) is not nn.Linear or not torch.is_autocast_enabled(device):
        return head  # type: ignore[no-any-return]
    dtype, bias = torch.get_autocast_dtype(device), getattr(head, "bias", None)
    weight, shift = head.weight.to(dtype), None if bias is None else bias.to(dtype)
    return lambda hidden: F.linear(hidden.to(dtype), weight, shift)
