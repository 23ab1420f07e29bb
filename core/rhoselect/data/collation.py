"""Whether the batch that a task makes of examples has each of them in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rhoselect.data.repeatable import fault, same
from rhoselect.errors import shortened
from rhoselect.nest import Nest, leaves, shapes

ORDERS = ((1, 2, 0), (1, 0, 2))
"""Of three examples: all other orders are made of these two."""

Collate = Callable[[Sequence[Any]], Nest]


def dropped(content: Nest, count: int) -> str | None:
    """What is wrong with a batch of ``count`` examples that has tensors, but none with a row for
    each; else None."""
    tensors = list(leaves(content))
    if not tensors or any(tensor.shape[:1] == (count,) for tensor in tensors):
        return None
    return f"tensors {shapes(content)} for {count} examples, allowed a row for each"


def disordered(collate: Collate, examples: Sequence[Any]) -> str | None:
    """What is wrong with how ``collate`` makes a batch of three examples, or None: it differs the
    second time, or its rows are not in the examples' order."""
    if wrong := fault(lambda: collate(examples)):
        what = wrong.replace("item", "batch")
        return f"{what} of the same examples, allowed one that depends on them alone"
    whole = [tensor for tensor in leaves(collate(examples)) if tensor.shape[:1] == (3,)]
    for order in ORDERS:
        other = leaves(collate([examples[place] for place in order]))
        moved = [tensor for tensor in other if tensor.shape[:1] == (3,)]
        if not same([tensor[list(order)] for tensor in whole], moved):
            return "rows in another order than the examples, allowed the same order"
    return None


def structure(item: Any) -> str:
    """The keys, types, dtypes and numbers of dimensions of an item."""
    if isinstance(item, Mapping):
        parts = sorted(f"{key}: {structure(value)}" for key, value in item.items())
        return f"{{{', '.join(parts)}}}"
    if isinstance(item, tuple):
        return f"({', '.join(map(structure, item))})"
    if getattr(item, "ndim", 0):
        return f"{str(item.dtype).removeprefix('torch.')} of {item.ndim} dimensions"
    if isinstance(item, int | float) or hasattr(item, "ndim"):
        return "number"
    return type(item).__name__


def unlike(item: Any, first: Any) -> str | None:
    """How an item differs in structure from the first one, or None."""
    got, allowed = structure(item), structure(first)
    return None if got == allowed else f"{shortened(got, 200)}, allowed {shortened(allowed, 200)}"
