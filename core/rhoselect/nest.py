"""Nests: tensors in dicts, lists and tuples, such as a collator makes of examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rhoselect.errors import DataError

PLAIN = (bool, int, float, str, type(None))
Nest = Any
"""A tensor, or a dict, list or tuple of nests. What is per point has the points as its first
dimension. Other values (texts, numbers, None) stay as they are wherever a nest goes."""


def mapped(nest: Nest, change: Callable[[Tensor], Tensor]) -> Nest:
    """The nest with each tensor replaced by what ``change`` makes of it."""
    if isinstance(nest, Tensor):
        return change(nest)
    if isinstance(nest, Mapping):
        return {key: mapped(value, change) for key, value in nest.items()}
    if isinstance(nest, tuple) and hasattr(nest, "_fields"):
        return type(nest)(*(mapped(value, change) for value in nest))
    if isinstance(nest, tuple):
        return tuple(mapped(value, change) for value in nest)
    if isinstance(nest, Sequence) and not isinstance(nest, str | bytes):
        return [mapped(value, change) for value in nest]
    return nest


def leaves(nest: Nest) -> Iterator[Tensor]:
    """The tensors of a nest, in order."""
    if isinstance(nest, Tensor):
        yield nest
    elif isinstance(nest, Mapping):
        for value in nest.values():
            yield from leaves(value)
    elif isinstance(nest, Sequence) and not isinstance(nest, str | bytes):
        for value in nest:
            yield from leaves(value)


def moved(nest: Nest, device: torch.device) -> Nest:
    """The nest with its tensors on ``device``."""
    return mapped(nest, lambda tensor: tensor.to(device))


def described(nest: Nest, name: str = "") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """How the tensors of a nest lie in it, for JSON, and the tensors by name, from which
    ``rebuilt`` makes it again. Raises DataError for what is neither a nest nor plain."""
    if isinstance(nest, Tensor):
        return {"tensor": name}, {name: nest}
    if isinstance(nest, PLAIN):
        return {"value": nest}, {}
    parts: dict[Any, Any]
    if isinstance(nest, Mapping) and all(isinstance(key, str) for key in nest):
        kind, parts = "dict", dict(nest)
    elif isinstance(nest, list | tuple):
        kind, parts = "list" if isinstance(nest, list) else "tuple", dict(enumerate(nest))
    else:
        raise DataError(
            f"batch: got a {type(nest).__name__} in it, allowed tensors, numbers and texts in dicts"
            " with texts as keys, lists and tuples"
        )
    found: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for key, part in parts.items():
        found[key], more = described(part, f"{name}.{key}" if name else str(key))
        tensors |= more
    return {kind: found if kind == "dict" else list(found.values())}, tensors


def rebuilt(structure: Any, tensors: Mapping[str, Tensor]) -> Nest:
    """The nest that ``described`` took apart. Raises KeyError for what is no such structure."""
    ((kind, found),) = structure.items()
    if kind == "dict":
        return {key: rebuilt(part, tensors) for key, part in found.items()}
    if kind in ("list", "tuple"):
        parts = [rebuilt(part, tensors) for part in found]
        return parts if kind == "list" else tuple(parts)
    return tensors[found] if kind == "tensor" else found


def shapes(nest: Nest) -> str:
    """The shapes of the first few tensors, for messages."""
    found = [str(list(tensor.shape)) for tensor in leaves(nest)]
    more = f" (and {len(found) - 4} more)" if len(found) > 4 else ""
    return f"{', '.join(found[:4]) or 'no tensors'}{more}"
