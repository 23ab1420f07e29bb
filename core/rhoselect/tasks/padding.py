"""Examples of different lengths in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""The label of a token that torch's cross-entropy leaves out."""


def padded(examples: Sequence[Any]) -> list[Any]:
    """The examples; of dicts with an ``attention_mask`` [T], all tensors [T, ...] with zeros up to
    the longest T, which the mask hides. ``labels`` [T] get -100."""
    if not all(
        isinstance(example, Mapping) and "attention_mask" in example for example in examples
    ):
        return list(examples)
    lengths = [len(example["attention_mask"]) for example in examples]
    most = max(lengths)

    def filled(name: str, value: Any, length: int) -> Any:
        if not isinstance(value, Tensor) or value.shape[:1] != (length,):
            return value
        shape = [0, 0] * (value.ndim - 1) + [0, most - length]
        return F.pad(value, shape, value=IGNORED if name == "labels" else 0)

    return [
        {name: filled(name, value, length) for name, value in example.items()}
        for example, length in zip(examples, lengths, strict=True)
    ]
