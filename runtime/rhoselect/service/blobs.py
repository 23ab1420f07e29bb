"""Tensors of the Selection service: a safetensors file in chunks, with the hash of the whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from rhoselect.errors import UserError
from rhoselect.protos import selection_pb2 as pb
from rhoselect.service.server import CHUNK_BYTES
from rhoselect.snapshots.format import pack as pack_file
from rhoselect.snapshots.format import unpack
from rhoselect.types import Layout

HEADER_BYTES = 1024  # what a safetensors file may spend on a tensor's name, type, shape and place
PREFIX = "DATA_TYPE_"  # the rest of a DataType's name is torch's name of the dtype


def pack(tensors: Mapping[str, Tensor], layout: Layout | None = None) -> bytearray:
    """The tensors as a blob, or those of ``layout`` in its dtypes; copied once."""
    if layout is None:
        return pack_file(tensors)
    dtypes = {name: like.dtype for name, like in layout.items()}
    return pack_file({name: tensors[name] for name in layout}, dtypes)


def header(blob: bytes | bytearray) -> pb.BlobHeader:
    """What goes before the chunks."""
    return pb.BlobHeader(size_bytes=len(blob), sha256=hashlib.sha256(blob).digest())


def chunks(blob: bytes | bytearray) -> Iterator[bytes]:
    """The blob in pieces of at most ``CHUNK_BYTES``."""
    view = memoryview(blob)
    for start in range(0, len(blob), CHUNK_BYTES):
        yield bytes(view[start : start + CHUNK_BYTES])


class Arriving:
    """A blob that comes in chunks; ``most_bytes`` bounds what a header may announce.

    Raises UserError as soon as the data do not match the header.
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
        """Drop the data received so far."""
        self._data = bytearray()

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the complete blob, which is then dropped. Raises UserError."""
        data, self._data = self._data, bytearray()
        if len(data) != self._head.size_bytes:
            raise UserError(
                f"blob: got {len(data)} bytes, allowed the {self._head.size_bytes} that its"
                " header announced; send it again"
            )
        if hashlib.sha256(data).digest() != self._head.sha256:
            raise UserError("blob: got bytes with another SHA-256 than the header's; send it again")
        try:
            return unpack(data)[0]
        except ValueError as error:
            raise UserError(f"blob: got no safetensors file ({error}), allowed one") from None


def most_bytes(layout: Layout) -> int:
    """What a snapshot of a layout may take."""
    return sum(like.nbytes + HEADER_BYTES for like in layout.values()) + HEADER_BYTES


def to_specs(layout: Layout) -> list[pb.TensorSpec]:
    """A layout as messages."""
    return [
        pb.TensorSpec(
            name=name,
            data_type=PREFIX + str(like.dtype).removeprefix("torch.").upper(),
            shape=like.shape,
        )
        for name, like in layout.items()
    ]


def from_specs(specs: list[pb.TensorSpec]) -> Layout:
    """The layout back."""
    layout = {}
    for spec in specs:
        dtype = getattr(torch, pb.DataType.Name(spec.data_type).removeprefix(PREFIX).lower())
        layout[spec.name] = torch.empty(tuple(spec.shape), dtype=dtype, device="meta")
    return layout
