"""Copies of many tensors. Where a GPU takes part they need few kernels and few transfers: a network
has hundreds of small tensors, and each would cost a launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SMALL_BYTES = 1 << 20  # of a tensor on average: larger ones gain nothing from travelling together
WIDEST_BYTES = 16  # of a number


def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source to its target, cast to its dtype. All targets are on one device. A GPU may
    still copy when this returns, also from pinned memory."""
    if not targets:
        return
    device = targets[0].device
    if device.type == "cuda":
        sources = landed(sources, device)
    # torch copies a list by one kernel if all that is in it is alike, else by one for each tensor.
    alike = dict[object, tuple[list[Tensor], list[Tensor]]]()
    for own, given in zip(targets, sources, strict=True):
        kind = own.dtype, given.dtype, given.device, own.stride() == given.stride()
        into, of = alike.setdefault(kind if device.type == "cuda" else None, ([], []))
        into.append(own)
        of.append(given)
    with torch.no_grad():
        for into, of in alike.values():
            torch._foreach_copy_(into, of, non_blocking=True)


def landed(tensors: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """The tensors; if they are small and lie in one buffer of the host, copies of them on
    ``device`` that travelled together."""
    size, memory = sum(t.nbytes for t in tensors), tensors[0].untyped_storage()
    if not 0 < size <= SMALL_BYTES * len(tensors) or not all(_is_in(memory, t) for t in tensors):
        return tensors
    places = [t.storage_offset() * t.itemsize for t in tensors]
    ends = [place + t.nbytes for place, t in zip(places, tensors, strict=True)]
    begin, end = min(places), max(ends)
    begin -= begin % WIDEST_BYTES
    if end - begin > 2 * size + WIDEST_BYTES:  # others lie between them
        return tensors
    file = torch.empty(0, dtype=torch.uint8).set_(memory, begin, (end - begin,), (1,))
    there = file.to(device, non_blocking=True)
    return [
        there[place - begin : end - begin].view(t.dtype).view(t.shape)
        for place, end, t in zip(places, ends, tensors, strict=True)
    ]


def _is_in(memory: torch.UntypedStorage, tensor: Tensor) -> bool:
    same = tensor.untyped_storage().data_ptr() == memory.data_ptr()
    return same and tensor.device.type == "cpu" and tensor.is_contiguous()
