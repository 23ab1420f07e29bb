"""Points with numbers to predict: regression, and labels of which several may be true at once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhoselect.errors import ModelError
from rhoselect.tasks.base import Metrics, Task, losses_of, mean_loss, output_of
from rhoselect.types import Batch, Losses


class Regression(Task):
    """Examples are (input, target), a target a number or [K] numbers; the model gives [C], or
    [C, K]. The loss is the squared error, a mean over the K; ``rmse`` is the root of the mean."""

    metric = "rmse"

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        """Squared errors [C]. Raises ModelError."""
        predicted, targets = matched(model, batch)
        return Losses((predicted - targets).square().mean(1))

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Metrics:
        """The root of the mean squared error, and that mean as ``loss``."""
        loss = mean_loss(losses_of(self, model, batch) for batch in batches)
        return {"rmse": math.sqrt(loss), "loss": loss}

    def outputs(self, batch: Batch) -> int:
        """1 or K."""
        return targets_of(batch).shape[1]


class MultiLabel(Task):
    """Examples are (input, labels [L] of 0 and 1); the model gives logits [C, L]. The loss is the
    binary cross-entropy in nats, a mean over the L."""

    metric = "mean_average_precision"
    direction: Literal["max", "min"] = "max"

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        """Binary cross-entropies [C]. Raises ModelError."""
        logits, labels = matched(model, batch)
        each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return Losses(each.mean(1))

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Metrics:
        """The average precision, a mean over the labels that a point has; F1 over all labels
        together, of logits above 0; the mean loss."""
        found = [matched(model, batch) for batch in batches]
        logits, labels = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
        right, guessed = labels > 0.5, logits > 0
        hits = int((right & guessed).sum())
        precisions = [
            average_precision(scores, true)
            for scores, true in zip(logits.T, right.T, strict=True)
            if true.any()
        ]
        loss = F.binary_cross_entropy_with_logits(logits.double(), labels.double()).item()
        return {
            "mean_average_precision": math.fsum(precisions) / max(1, len(precisions)),
            "micro_f1": 2 * hits / max(1, int(right.sum()) + int(guessed.sum())),
            "loss": loss,
        }

    def outputs(self, batch: Batch) -> int:
        """L."""
        return targets_of(batch).shape[1]


def average_precision(scores: Tensor, true: Tensor) -> float:
    """The mean, over the points of ``true`` [N] bool, of the precision among the points with at
    least their score; of equal ``scores`` [N] the earlier point comes first."""
    ranked = true[scores.argsort(descending=True, stable=True)]
    places = ranked.nonzero().squeeze(1) + 1
    return float((torch.arange(1, len(places) + 1) / places).double().mean())


def targets_of(batch: Batch) -> Tensor:
    """The targets [C, K] float32 of a batch. Raises ModelError."""
    targets = batch.labels
    if not isinstance(targets, Tensor) or targets.ndim not in (1, 2):
        got = f"{list(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        raise ModelError(
            f"losses: got targets {got}, allowed [C] or [C, K] in (inputs, targets) pairs, or as"
            ' "labels" of dicts'
        )
    return targets.float().reshape(len(targets), -1)


def matched(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """What the model gives, and the targets, both [C, K] float32. Raises ModelError unless they are
    alike in shape."""
    output, targets = output_of(model, batch.inputs), targets_of(batch)
    if isinstance(output, Tensor) and output.ndim == 1:
        output = output[:, None]
    if not isinstance(output, Tensor) or output.shape != targets.shape:
        got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ModelError(
            f"losses: for targets {list(targets.shape)} the model gives {got}, allowed the same"
            " shape; return one number for each target of a point"
        )
    return output.float(), targets
