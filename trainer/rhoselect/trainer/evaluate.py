"""Evaluation on a split, by a replica with running BatchNorm statistics."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from rhoselect.selection import Forward
from rhoselect.types import Indices, Points


@dataclass(frozen=True)
class Evaluation:
    """Accuracies in [0, 1] and the mean loss in nats over a split. ``class_accuracy`` [K], rounded
    to four digits, is None for a class without points."""

    accuracy: float
    loss: float
    worst_class_accuracy: float
    class_accuracy: list[float | None] = field(default_factory=list)


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
    by_class = [float(h / n) if n else None for h, n in zip(hits, total, strict=True)]
    return Evaluation(
        accuracy=float(correct.mean()),
        loss=loss_sum / len(indices),
        worst_class_accuracy=min(share for share in by_class if share is not None),
        class_accuracy=[None if share is None else round(share, 4) for share in by_class],
    )
