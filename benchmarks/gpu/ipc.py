"""A snapshot that does not leave the GPU: an arm of stage 5.

The publisher casts into memory of its own. A reader's process opens that memory by a CUDA IPC
handle, once, and copies each version from there to its replica. The handle travels as numbers and
bytes that are never unpickled. Both ends are on one GPU, or on two that reach each other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, get_type_hints

import torch
from torch import Tensor

from rhoselect.snapshots.copying import copy_all
from rhoselect.snapshots.format import Header


class Handle(NamedTuple):
    """What torch says of memory that another process may open, in its order. By the counter the
    owner sees when a reader has closed it; the event is when it may be read first."""

    device: int
    memory: bytes
    size_bytes: int
    offset_bytes: int
    counter: bytes
    counter_offset: int
    event: bytes
    waits: bool

    def packed(self) -> bytes:
        """The fields as JSON, bytes in hexadecimal."""
        return json.dumps([v.hex() if isinstance(v, bytes) else v for v in self]).encode()

    @classmethod
    def parse(cls, data: bytes) -> Handle:
        """The handle of ``packed``. Raises ValueError."""
        try:
            fields, kinds = json.loads(data), get_type_hints(cls).values()
            made = [
                bytes.fromhex(value) if kind is bytes else value
                for value, kind in zip(fields, kinds, strict=True)
            ]
        except (TypeError, ValueError) as error:
            raise ValueError(f"no handle of CUDA memory: {error}") from None
        if [type(value) for value in made] != [*kinds]:
            raise ValueError(f"no handle of CUDA memory: got {[type(v).__name__ for v in made]}")
        return cls(*made)


class Lent:
    """The publisher's memory on the device of ``tensors``, for their snapshot in ``layout``."""

    def __init__(self, tensors: Mapping[str, Tensor], layout: Mapping[str, torch.dtype]) -> None:
        self.header = Header.of({name: tensors[name] for name in layout}, layout)
        device = next(iter(tensors.values())).device
        self.file = torch.zeros(self.header.size, dtype=torch.uint8, device=device)
        self.views = [span.view(self.file) for span in self.header.spans]
        self._given = [tensors[span.name] for span in self.header.spans]

    def handle(self) -> bytes:
        """For one reader: torch counts them."""
        storage: Any = self.file.untyped_storage()
        return Handle(*storage._share_cuda_()).packed()

    def publish(self) -> None:
        """Cast the tensors as they are now; returns when they may be read."""
        copy_all(self.views, self._given)
        if self.file.is_cuda:
            torch.cuda.synchronize(self.file.device)


def opened(handle: bytes, header: bytes) -> list[tuple[str, Tensor]]:
    """A reader's view of the tensors in the publisher's memory, which stays mapped with them."""
    torch.cuda.init()
    storage: Any = torch.UntypedStorage
    memory = storage._new_shared_cuda(*Handle.parse(handle))
    file = torch.empty(0, dtype=torch.uint8, device=memory.device).set_(memory)
    return [(span.name, span.view(file)) for span in Header.parse(header).spans]


def bits(tensors: Iterable[Tensor]) -> str:
    """The SHA-256 of the tensors' bytes, one after the other."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
