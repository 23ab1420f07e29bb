"""Any state as tensors with flat names: a checkpoint holds nothing else, and no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

STRUCTURE = "structure"
"""The tensor of bytes that has, in JSON, everything but the tensors."""


def pack(tree: Any) -> dict[str, Tensor]:
    """The tensors of ``tree``, named by their places in it, and the rest as one more: dicts, lists
    and tuples of numbers, texts and None. Raises TypeError for anything else."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_plain(tree, "", tensors))
    tensors[STRUCTURE] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    return tensors


def unpack(tensors: Mapping[str, Tensor]) -> Any:
    """What ``pack`` was given: floats come back bit for bit, tuples as tuples."""
    return _whole(json.loads(tensors[STRUCTURE].numpy().tobytes()), tensors)


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` with names that begin with ``prefix``."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``prefixed`` was given."""
    found = ((name, tensor) for name, tensor in tensors.items() if name.startswith(prefix))
    return {name.removeprefix(prefix): tensor for name, tensor in found}


def _plain(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON can hold it."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        name = place if place not in tensors else f"{place}.{len(tensors)}"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        items = [
            (key, _plain(item, f"{place}.{key}".strip("."), tensors)) for key, item in value.items()
        ]
        return {"mapping": [[_plain(key, "", {}), item] for key, item in items]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_plain(item, f"{place}.{n}", tensors) for n, item in enumerate(value)]}
    raise TypeError(f"{place}: a {type(value).__name__}")


def _whole(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What ``_plain`` was given."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "mapping":
        return {key: _whole(item, tensors) for key, item in content}
    items = [_whole(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)
