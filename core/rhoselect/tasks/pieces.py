"""Cross-entropies of tokens, computed a piece at a time.

Where the model has a body and a head, as the causal models of transformers have, logits are made in
pieces: [C, T, V] never exists. A model that gives logits alone is called for some rows at a time;
in training its logits, of its own dtype, stay until the gradient, and float32 is made in pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rhoselect.errors import ModelError
from rhoselect.tasks.base import output_of

PIECE = 1 << 24
"""Most logits at once: 64 MiB of float32."""
COMPARED = 64
"""Tokens of which body and head are compared with the forward."""
SCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
"""Settings by which models of transformers change what their head gives."""
Body = Callable[[dict[str, Tensor]], Tensor]
Head = Callable[[Tensor], Tensor]


def token_losses(
    model: nn.Module, inputs: dict[str, Tensor], targets: Tensor, whole: bool
) -> Tensor:
    """The losses [C, N], float32, of ``targets`` [C, N] under the first N logits that the model
    gives for ``inputs``; 0 of a target -100. ``whole`` takes those of the model's own forward."""
    count = targets.shape[1]
    split = None if whole else body_and_head(model)
    if split is not None:
        body, head = split
        hidden = body(inputs)[:, :count]  # [C, N, D]
        return _of_hidden(head, hidden.flatten(0, 1), targets.flatten()).view(targets.shape)
    found, row, rows = list[Tensor](), 0, 1  # the first row tells how many logits it has
    while row < len(targets):
        part = {name: tensor[row : row + rows] for name, tensor in inputs.items()}
        logits = output_of(model, part)[:, :count]  # [rows, N, V]
        found.append(_of_logits(logits, targets[row : row + rows]))
        row, rows = row + rows, max(1, PIECE // max(1, logits[0].numel()))
    return torch.cat(found)


def body_and_head(model: Any) -> tuple[Body, Head] | None:
    """What gives hidden states [C, T, D], and what makes logits of them; None of a model that is
    not known to have the two."""
    body = body_of(model)
    if body is None:
        return None

    def hidden(inputs: dict[str, Tensor]) -> Tensor:
        found: Tensor = body(**inputs, use_cache=False).last_hidden_state
        return found

    return hidden, _adapted(model).get_output_embeddings()


def body_of(model: Any) -> nn.Module | None:
    """The module that gives hidden states [C, T, D]; None of a model that is not known to have one,
    and a head that makes logits of them."""
    model = _adapted(model)
    if not hasattr(model, "config") or not hasattr(model, "get_output_embeddings"):
        return None
    body: nn.Module = getattr(model, "base_model", model)
    scaled = any(getattr(model.config, name, None) not in (None, 1, 1.0) for name in SCALED)
    return None if body is model or model.get_output_embeddings() is None or scaled else body


def _adapted(model: Any) -> Any:
    """The model itself, or the one below an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def check_head(model: nn.Module, inputs: dict[str, Tensor], logits: Tensor, whole: bool) -> None:
    """Raise ModelError unless the model's body and head, if those are used, give its ``logits`` for
    the first tokens of ``inputs``."""
    split = None if whole else body_and_head(model)
    if split is None:
        return
    body, head = split
    own, given = head(body(inputs)[:, :COMPARED]).float(), logits[:, :COMPARED].float()
    if (own - given).norm() > 0.05 * given.norm():  # far above rounding, also of bf16
        raise ModelError(
            "its model's head gives other logits than its forward, allowed the same; set"
            " task.args.whole = true"
        )


def _of_hidden(head: Head, hidden: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropies [N] of ``targets`` [N] under ``head`` of ``hidden`` [N, D]."""
    head = _cast_once(head, hidden.device.type)

    def losses(part: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(head(part).float(), wanted, reduction="none")

    size = max(1, PIECE // head(hidden[:1].detach()).shape[-1])
    parts = zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
    return torch.cat([_remade(losses, *part) for part in parts])


def _of_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropies [R, T] of ``targets`` [R, T] under ``logits`` [R, T, V] of any dtype, for
    some tokens at a time."""

    def losses(part: Tensor, wanted: Tensor) -> Tensor:
        flat = F.cross_entropy(part.flatten(0, 1).float(), wanted.flatten(), reduction="none")
        return flat.view(wanted.shape)

    rows, _, vocabulary = logits.shape
    size = max(1, PIECE // max(1, rows * vocabulary))
    parts = zip(torch.split(logits, size, 1), torch.split(targets, size, 1), strict=True)
    return torch.cat([_remade(losses, *part) for part in parts], 1)


def _remade(losses: Callable[[Tensor, Tensor], Tensor], part: Tensor, wanted: Tensor) -> Tensor:
    """The losses of a piece. In training what is made for them is made again for the gradient."""
    if not torch.is_grad_enabled():
        return losses(part, wanted)
    found: Tensor = checkpoint(losses, part, wanted, use_reentrant=False, preserve_rng_state=False)
    return found


def _cast_once(head: Any, device: str) -> Head:
    """A linear head under autocast, which would cast its weight again for each piece."""
    if type(head) is not nn.Linear or not torch.is_autocast_enabled(device):
        return head  # type: ignore[no-any-return]
    dtype, bias = torch.get_autocast_dtype(device), getattr(head, "bias", None)
    weight, shift = head.weight.to(dtype), None if bias is None else bias.to(dtype)
    return lambda hidden: F.linear(hidden.to(dtype), weight, shift)
