"""Evaluation on a split, by a replica with running BatchNorm statistics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rhoselect.selection import Forward
from rhoselect.types import Indices, Points


@dataclass(frozen=True)
class Evaluation:
    """Accuracies in [0, 1] and the mean loss in nats over a split."""

    accuracy: float
    loss: float
    worst_class_accuracy: float


def evaluate(
    forward: Forward,
    points: Points,
    indices: Indices,
    classes: int,
    batch: int,
    device: torch.device,
) -> Evaluation:
    """Evaluate the weights that ``forward`` has loaded on the points of ``indices`` [N].

    The worst class is found among the classes that have points in the split.
    """
    correct, labels = np.empty(len(indices), bool), np.empty(len(indices), np.int64)
    loss_sum = 0.0
    for start in range(0, len(indices), batch):
        part = slice(start, start + batch)
        output = forward(points.read(indices[part], device))
        correct[part] = (output.logits.argmax(1) == output.labels).cpu().numpy()
        labels[part] = output.labels.cpu().numpy()
        loss_sum += output.losses.double().sum().item()
    total = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[correct], minlength=classes)
    seen = total > 0
    return Evaluation(
        accuracy=float(correct.mean()),
        loss=loss_sum / len(indices),
        worst_class_accuracy=float((hits[seen] / total[seen]).min()),
    )
