"""Tensors on the wire: a safetensors file in chunks of at most a megabyte, with a whole hash.

Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rhoselect.errors import UserError
from rhoselect.protos import selection_pb2 as pb
from rhoselect.service.server import CHUNK_BYTES
from rhoselect.types import Layout

HEADER_BYTES = 1024  # what a safetensors file may spend on a tensor's name, type, shape and place

DATA_TYPES: dict[torch.dtype, pb.DataType] = {
    torch.float64: pb.DATA_TYPE_FLOAT64,
    torch.float32: pb.DATA_TYPE_FLOAT32,
    torch.float16: pb.DATA_TYPE_FLOAT16,
    torch.bfloat16: pb.DATA_TYPE_BFLOAT16,
    torch.int64: pb.DATA_TYPE_INT64,
    torch.int32: pb.DATA_TYPE_INT32,
    torch.int16: pb.DATA_TYPE_INT16,
    torch.int8: pb.DATA_TYPE_INT8,
    torch.uint8: pb.DATA_TYPE_UINT8,
    torch.bool: pb.DATA_TYPE_BOOL,
}


def pack(tensors: Mapping[str, Tensor], layout: Layout | None = None) -> bytes:
    """The tensors as a blob, or those of ``layout`` in its dtypes; copied once."""
    dtypes = {name: like.dtype for name, like in (layout or tensors).items()}
    return save(
        {
            name: tensors[name].detach().to("cpu", dtype, copy=True).contiguous()
            for name, dtype in dtypes.items()
        }
    )


def header(blob: bytes) -> pb.BlobHeader:
    """What goes before the chunks."""
    return pb.BlobHeader(size_bytes=len(blob), sha256=hashlib.sha256(blob).digest())


def chunks(blob: bytes) -> Iterator[bytes]:
    """The blob in pieces of at most ``CHUNK_BYTES``."""
    for start in range(0, len(blob), CHUNK_BYTES):
        yield blob[start : start + CHUNK_BYTES]


class Arriving:
    """A blob that comes in chunks; ``most_bytes`` bounds what a header may announce.

    Raises UserError for whatever is not what the header said, as soon as that is known.
    """

    def __init__(self, head: pb.BlobHeader, most_bytes: int | None = None) -> None:
        if not head.size_bytes or (most_bytes is not None and head.size_bytes > most_bytes):
            raise UserError(
                f"blob: got a size of {head.size_bytes} bytes, allowed 1 to {most_bytes}"
            )
        self._head = head
        self._data = bytearray()

    def add(self, chunk: bytes) -> None:
        """The next piece."""
        left = self._head.size_bytes - len(self._data)
        if not 0 < len(chunk) <= min(left, CHUNK_BYTES):
            raise UserError(
                f"blob: got a chunk of {len(chunk)} bytes, allowed 1 to {CHUNK_BYTES} and none"
                f" beyond the {left} bytes that its header announced and that are not here yet"
            )
        self._data += chunk

    def forget(self) -> None:
        """Let go of what has come."""
        self._data = bytearray()

    def tensors(self) -> dict[str, Tensor]:
        """What it held, once all of it is here; it is forgotten."""
        data, self._data = self._data, bytearray()
        if len(data) != self._head.size_bytes:
            raise UserError(
                f"blob: got {len(data)} bytes, allowed the {self._head.size_bytes} that its"
                " header announced; send it again"
            )
        if hashlib.sha256(data).digest() != self._head.sha256:
            raise UserError("blob: got bytes with another SHA-256 than the header's; send it again")
        try:
            return load(bytes(data))
        except (SafetensorError, ValueError, KeyError) as error:
            raise UserError(f"blob: got no safetensors file ({error}), allowed one") from None


def most_bytes(layout: Layout) -> int:
    """What a snapshot of a layout may take."""
    return sum(like.nbytes + HEADER_BYTES for like in layout.values()) + HEADER_BYTES


def to_specs(layout: Layout) -> list[pb.TensorSpec]:
    """A layout as messages."""
    return [
        pb.TensorSpec(name=name, data_type=DATA_TYPES[like.dtype], shape=like.shape)
        for name, like in layout.items()
    ]


def from_specs(specs: list[pb.TensorSpec]) -> Layout:
    """The layout back."""
    dtypes = {code: dtype for dtype, code in DATA_TYPES.items()}
    return {
        spec.name: torch.empty(tuple(spec.shape), dtype=dtypes[spec.data_type], device="meta")
        for spec in specs
    }
