"""Label smoothing, which the update sees and nothing else does."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from rhoselect.errors import ConfigError
from rhoselect.types import Losses


def trained_losses(found: Losses, smoothing: float) -> Tensor:
    """The losses [C] to learn from: those of the task, or cross-entropies with labels of which the
    share ``smoothing`` is spread over all classes. Raises ConfigError for other tasks than a
    classifier's."""
    if not smoothing:
        return found.losses
    if found.logits is None or found.labels is None:
        raise ConfigError(
            f"trainer.label_smoothing: got {smoothing}, allowed 0 for losses without logits [C, K]"
            " and labels [C] of classes; smooth in the task's or the loop's own losses"
        )
    return F.cross_entropy(found.logits, found.labels, reduction="none", label_smoothing=smoothing)
