"""The losses by which a ``SelectionTrainer`` chooses points, unless it is given others."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rhoselect.client.batch import SelectionBatch
from rhoselect.client.own_model import unwrapped
from rhoselect.tasks.classification import check_classes, check_range
from rhoselect.tasks.padding import IGNORED
from rhoselect.types import Losses


def classification_losses(
    model: nn.Module, batch: SelectionBatch, smoothing: float = 0.0
) -> Tensor:
    """Cross-entropies [C] of a sequence classifier on inputs with integer ``labels`` [C]. Raises
    ModelError."""
    return _classified(model, batch, smoothing).losses


def causal_lm_losses(model: nn.Module, batch: SelectionBatch, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropies [C] of the tokens of each sequence, of inputs with ``labels`` [C, T], in
    which -100 is not counted."""
    return _predicted(model, batch, smoothing).losses


def usual_losses(model: nn.Module, batch: SelectionBatch, smoothing: float = 0.0) -> Tensor:
    """``causal_lm_losses`` of a causal language model, ``classification_losses`` of any other."""
    return usual_output(model, batch, smoothing).losses


def usual_output(model: nn.Module, batch: SelectionBatch, smoothing: float = 0.0) -> Losses:
    """``usual_losses`` with the logits and labels of a classifier, or the losses of tokens."""
    names = {type(unwrapped(model)).__name__, type(adapted(model)).__name__}
    causal = names & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    return (_predicted if causal else _classified)(model, batch, smoothing)


def adapted(model: nn.Module) -> nn.Module:
    """The model without its wrappers and the adapters of PEFT."""
    bare: Any = unwrapped(model)
    inner: nn.Module = bare.get_base_model() if hasattr(bare, "get_base_model") else bare
    return inner


def _classified(model: nn.Module, batch: SelectionBatch, smoothing: float) -> Losses:
    inputs = dict(batch.inputs)
    labels = inputs.pop("labels", None)
    logits = model(**inputs).logits
    check_classes(logits, labels)
    check_range(labels, logits.shape[1])
    logits, labels = logits.float(), labels.long()
    losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    return Losses(losses, logits, labels)


def _predicted(model: nn.Module, batch: SelectionBatch, smoothing: float) -> Losses:
    inputs = dict(batch.inputs)
    labels = inputs.pop("labels")[:, 1:]
    logits = model(**inputs).logits[:, :-1].float()
    tokens = F.cross_entropy(
        logits.mT, labels, reduction="none", ignore_index=IGNORED, label_smoothing=smoothing
    )
    mask = labels != IGNORED
    return Losses(tokens.sum(1) / mask.sum(1).clamp(min=1), tokens=tokens, mask=mask)
