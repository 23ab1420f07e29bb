"""Points with one label of K classes, by cross-entropy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhoselect.errors import DataError, ModelError
from rhoselect.importing import one_line
from rhoselect.nest import Nest
from rhoselect.tasks.base import Metrics, Task, losses_of, output_of, total
from rhoselect.types import Batch, Losses

INPUT_DTYPES = (torch.float32, torch.int64)


class Classification(Task):
    """Examples are (input, label): a float32 or int64 tensor or array, alike in shape, and an
    integer; or dicts of tensors, alike in shape or with an ``attention_mask``, and an integer
    "labels". The model gives logits [C, K], or an output that has them; a dict's tensors are its
    keywords."""

    metric = "accuracy"
    direction: Literal["max", "min"] = "max"
    least_outputs = 2

    def collate(self, examples: Sequence[Any]) -> Nest:
        """Inputs [C, ...] and labels [C] int64. Raises DataError."""
        if isinstance(examples[0], Mapping):
            labels = torch.tensor([self.label(example) for example in examples])
            return {**super().collate(examples), "labels": labels}
        pairs = [pair(example) for example in examples]
        shapes = [list(value.shape) for value, _ in pairs]
        if other := next((shape for shape in shapes if shape != shapes[0]), None):
            raise DataError(f"got an input {other}, allowed {shapes[0]} in all")
        return torch.stack([value for value, _ in pairs]), torch.tensor([n for _, n in pairs])

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        """The cross-entropies [C] in nats, logits and labels. Raises ModelError."""
        logits, labels = output_of(model, batch.inputs), batch.labels
        check_classes(logits, labels)
        logits, labels = logits.float(), labels.long()
        return Losses(F.cross_entropy(logits, labels, reduction="none"), logits, labels)

    def evaluate(self, model: nn.Module, batches: Iterable[Batch]) -> Metrics:
        """Accuracies in [0, 1] and the mean loss in nats. ``class_accuracy`` [K], rounded to four
        digits, is None for a class without points; the worst is one of the others."""
        correct, labels, sums, classes = [], [], [], 0
        for batch in batches:
            found = losses_of(self, model, batch)
            assert found.logits is not None and found.labels is not None
            correct.append(found.logits.argmax(1) == found.labels)
            labels.append(found.labels)
            sums.append(found.losses.double().sum())
            classes = found.logits.shape[1]
        right, truth = torch.cat(correct).cpu().numpy(), torch.cat(labels).cpu().numpy()
        counts = np.bincount(truth, minlength=classes)
        hits = np.bincount(truth[right], minlength=classes)
        by_class = [float(h / n) if n else None for h, n in zip(hits, counts, strict=True)]
        return {
            "accuracy": float(right.mean()),
            "loss": total(sums) / len(right),
            "worst_class_accuracy": min(share for share in by_class if share is not None),
            "class_accuracy": [None if share is None else round(share, 4) for share in by_class],
        }

    def label(self, example: Any) -> int:
        """The example's label. Raises DataError."""
        if not isinstance(example, Mapping):
            return pair(example)[1]
        try:
            return index(example["labels"])
        except Exception as error:  # the user's data: anything may come out of it
            raise DataError(f'got {one_line(error)}, allowed an integer as "labels"') from error

    def check(self, model: nn.Module, batch: Batch, outputs: int) -> None:
        """Raise ModelError unless logits are [C, K], with the data set's K, and labels below it."""
        if batch.labels is None:
            raise ModelError(
                "losses: got none with items that are no (inputs, label) pairs, allowed such pairs,"
                ' dicts with "labels", another task.name, or losses(model, batch) -> [C]'
            )
        logits, count = output_of(model, batch.inputs), len(batch.indices)
        if not outputs:
            check_classes(logits, batch.labels)
            check_range(batch.labels, logits.shape[1])
            return
        if not isinstance(logits, Tensor):
            got = f"a {type(logits).__name__}"
        elif not logits.is_floating_point():
            got = f"{logits.dtype}"
        else:
            got = f"{list(logits.shape)}"
        if got != f"{[count, outputs]}":
            raise ModelError(
                f"for {count} points its model returns {got}, allowed float logits"
                f" [{count}, {outputs}]; return one row of class scores a point"
            )


def pair(example: Any) -> tuple[Tensor, int]:
    """An example's input and label. Raises DataError."""
    try:
        value, label = example
        tensor, number = torch.as_tensor(value), index(label)
    except Exception as error:  # the user's data: anything may come out of it
        raise DataError(f"got {one_line(error)}, allowed (tensor or array, integer)") from error
    if tensor.dtype not in INPUT_DTYPES:
        raise DataError(
            f"got inputs {tensor.dtype}, allowed float32 or int64; convert in the data set"
        )
    if tensor.ndim == 0:
        raise DataError("got a single number as input, allowed one dimension or more")
    return tensor, number


def check_classes(logits: Any, labels: Any) -> None:
    """Raise ModelError unless ``logits`` are [C, K] and integer ``labels`` [C].

    Of labels of several classes at once, of real numbers and of tokens, cross-entropy would give
    numbers that mean something else.
    """
    whole = isinstance(logits, Tensor) and isinstance(labels, Tensor)
    whole = whole and logits.ndim == 2 and labels.shape == logits.shape[:1]
    if not whole or logits.shape[1] < 2 or labels.is_floating_point() or labels.is_complex():
        raise ModelError(
            f"losses: got logits {_shape(logits)} and labels {_shape(labels)}, allowed"
            " logits [C, K] of two or more classes and integer labels [C]; name the loss of each"
            " point: losses(model, batch) -> [C], as in F.binary_cross_entropy_with_logits(…,"
            ' reduction="none").mean(1) for points of several classes, or another task.name'
        )


def check_range(labels: Tensor, classes: int) -> None:
    """Raise ModelError unless ``labels`` [C] are 0 … ``classes`` - 1. On a GPU it waits for them,
    and a wrong one that goes to a loss there ends the process."""
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= classes:
        raise ModelError(
            f"losses: got a label {least if least < 0 else most}, allowed 0 to {classes - 1}: the"
            f" model gives {classes} logits"
        )


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{list(value.shape)} of {value.dtype}"
    return f"of type {type(value).__name__}"
