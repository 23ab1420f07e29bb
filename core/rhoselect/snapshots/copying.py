"""Copies of many tensors. Where a GPU takes part they need few kernels and few transfers: a network
has hundreds of small tensors, and each would cost a launch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch._utils import _unflatten_dense_tensors

SMALL_BYTES = 1 << 20  # of a tensor on average: larger ones gain nothing from travelling together


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
    """The tensors; if they are small and lie side by side in the host's memory, copies of them on
    ``device`` that travelled together."""
    memory, size = tensors[0].untyped_storage(), sum(t.nbytes for t in tensors)
    begin, end = tensors[0].storage_offset() * tensors[0].itemsize, 0
    aligned = begin % max(t.itemsize for t in tensors) == 0
    if size > SMALL_BYTES * len(tensors) or not aligned or not _side_by_side(memory, tensors):
        return tensors
    file = torch.empty(0, dtype=torch.uint8).set_(memory, begin, (size,), (1,))
    there, found = file.to(device, non_blocking=True), list[Tensor]()
    for dtype, run in groupby(tensors, lambda tensor: tensor.dtype):
        alike = [*run]
        begin, end = end, end + sum(t.nbytes for t in alike)
        flat = there[begin:end].view(dtype)
        found += _unflatten_dense_tensors(flat, alike)  # type: ignore[no-untyped-call]
    return found


def _side_by_side(memory: torch.UntypedStorage, tensors: Sequence[Tensor]) -> bool:
    """Whether the tensors follow each other in ``memory`` of the host, without gaps."""
    place = tensors[0].storage_offset() * tensors[0].itemsize
    start = memory.data_ptr()
    for tensor in tensors:
        here = tensor.untyped_storage().data_ptr() == start and tensor.is_contiguous()
        if not here or not tensor.nbytes or tensor.storage_offset() * tensor.itemsize != place:
            return False
        place += tensor.nbytes
    return tensors[0].device.type == "cpu"
