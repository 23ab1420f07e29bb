"""The losses by which a ``SelectionTrainer`` chooses points, unless it is given others."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rhoselect.client.batch import SelectionBatch
from rhoselect.client.own_model import unwrapped
from rhoselect.tasks.classification import check_classes, check_range

IGNORED = -100  # the label of a token that no loss counts


def classification_losses(
    model: nn.Module, batch: SelectionBatch, smoothing: float = 0.0
) -> Tensor:
    """Cross-entropies [C] of a sequence classifier on inputs with integer ``labels`` [C]. Raises
    ModelError."""
    inputs = dict(batch.inputs)
    labels = inputs.pop("labels", None)
    logits = model(**inputs).logits
    check_classes(logits, labels)
    check_range(labels, logits.shape[1])
    return F.cross_entropy(
        logits.float(), labels.long(), reduction="none", label_smoothing=smoothing
    )


def causal_lm_losses(model: nn.Module, batch: SelectionBatch, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropies [C] of the tokens of each sequence, of inputs with ``labels`` [C, T], in
    which -100 is not counted."""
    inputs = dict(batch.inputs)
    labels = inputs.pop("labels")[:, 1:]
    logits = model(**inputs).logits[:, :-1].float()
    tokens = F.cross_entropy(
        logits.mT, labels, reduction="none", ignore_index=IGNORED, label_smoothing=smoothing
    )
    means: Tensor = tokens.sum(1) / (labels != IGNORED).sum(1).clamp(min=1)
    return means


def usual_losses(model: nn.Module, batch: SelectionBatch, smoothing: float = 0.0) -> Tensor:
    """``causal_lm_losses`` of a causal language model, ``classification_losses`` of any other."""
    bare = unwrapped(model)
    adapted = getattr(getattr(bare, "base_model", None), "model", None)  # by PEFT
    names = {type(bare).__name__, type(adapted).__name__}
    causal = names & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    return (causal_lm_losses if causal else classification_losses)(model, batch, smoothing)
