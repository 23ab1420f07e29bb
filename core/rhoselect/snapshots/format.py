"""The safetensors format: the bytes of tensors, after a header with the place of each tensor.

Snapshots in shared memory, snapshots between machines and the tensors that a service sends are all
written and read here. Nothing is ever unpickled.
"""

from __future__ import annotations

import ctypes
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WEIGHTS, STATE = "weights.", "state."  # prefixes of the names in a snapshot
CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The name of each dtype in the format."""
DTYPES = {code: dtype for dtype, code in CODES.items()}
LENGTH_BYTES = 8  # the file begins with the length of the header, little-endian
METADATA = "__metadata__"
Data = bytes | bytearray | NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Span:
    """A tensor's place: bytes ``begin`` to ``end`` of the file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int

    def view(self, file: Tensor) -> Tensor:
        """The tensor in the bytes ``file`` [size] uint8: a view, or a copy if it is unaligned."""
        part = file[self.begin : self.end]
        if self.begin % self.dtype.itemsize:
            part = part.clone()
        return part.view(self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class Header:
    """The beginning ``data`` of a file; ``spans`` in the order of their bytes; its whole size."""

    data: bytes
    spans: tuple[Span, ...]
    metadata: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self.spans[-1].end if self.spans else len(self.data)

    @classmethod
    def of(
        cls,
        tensors: Mapping[str, Tensor],
        dtypes: Mapping[str, torch.dtype],
        metadata: Mapping[str, str] | None = None,
    ) -> Header:
        """The header of a file of ``tensors``; those named in ``dtypes`` have that dtype."""
        described: dict[str, Any] = {} if metadata is None else {METADATA: dict(metadata)}
        kinds = {name: dtypes.get(name, tensor.dtype) for name, tensor in tensors.items()}
        end = 0
        # The widest elements first, so that every tensor is aligned.
        for name, dtype in sorted(kinds.items(), key=lambda item: -item[1].itemsize):
            shape = tensors[name].shape
            begin, end = end, end + math.prod(shape) * dtype.itemsize
            described[name] = {
                "dtype": CODES[dtype],
                "shape": [*shape],
                "data_offsets": [begin, end],
            }
        text = json.dumps(described).encode()
        text += b" " * (-(LENGTH_BYTES + len(text)) % 64)  # tensors begin on a cache line
        return cls.parse(len(text).to_bytes(LENGTH_BYTES, "little") + text)

    @classmethod
    def parse(cls, data: Data) -> Header:
        """The header of a file that begins with ``data``.

        Raises ValueError unless it gives each byte of the file to one tensor, in order.
        """
        start = LENGTH_BYTES + int.from_bytes(bytes(data[:LENGTH_BYTES]), "little")
        beginning = bytes(data[:start])
        try:
            described = json.loads(beginning[LENGTH_BYTES:], parse_float=_refuse_float)
            metadata = described.pop(METADATA, {})
            spans, end = [], start
            for name, entry in sorted(described.items(), key=lambda item: item[1]["data_offsets"]):
                dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
                begin, end = end, end + math.prod(shape) * dtype.itemsize
                if entry["data_offsets"] != [begin - start, end - start]:
                    raise ValueError(f"data_offsets of {name} leave a gap or overlap")
                if min(shape, default=0) < 0:
                    raise ValueError(f"{name} has the shape {list(shape)}")
                spans.append(Span(name, dtype, shape, begin, end))
        except (AttributeError, LookupError, TypeError, RecursionError) as error:
            raise ValueError(f"no safetensors header: {type(error).__name__}: {error}") from None
        if not isinstance(metadata, dict):
            raise ValueError(f"{METADATA} is not an object")
        return cls(beginning, tuple(spans), metadata)


def _refuse_float(text: str) -> None:
    raise ValueError(f"got {text}, allowed integers")


def pack(
    tensors: Mapping[str, Tensor],
    dtypes: Mapping[str, torch.dtype] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytearray:
    """The bytes of a file of ``tensors``; those named in ``dtypes`` are cast to that dtype.

    Tensors may be on any device. Each is cast there, and copied once.
    """
    header = Header.of(tensors, dtypes or {}, metadata)
    data = bytearray(header.size)
    data[: len(header.data)] = header.data
    file = torch.frombuffer(data, dtype=torch.uint8)
    with torch.no_grad():
        for span in header.spans:
            # A copy from a GPU that also casts would bring the wider numbers.
            span.view(file).copy_(tensors[span.name].to(span.dtype))
    return data


def unpack(data: Data) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """The tensors of a file, on the CPU, and its metadata.

    The tensors share the memory of ``data`` and keep it alive; write to them only if ``data`` may
    be changed. Raises ValueError unless ``data`` is exactly one file.
    """
    header = Header.parse(data)
    if header.size != len(data):
        raise ValueError(f"got {len(data)} bytes, allowed the {header.size} of its header")
    file = _memory(data)
    try:
        return {span.name: span.view(file) for span in header.spans}, header.metadata
    except (RuntimeError, TypeError) as error:  # a shape that torch refuses
        raise ValueError(str(error)) from None


def _memory(data: Data) -> Tensor:
    """A tensor [size] uint8 over ``data``, which it keeps alive.

    It is made from the address, because torch.frombuffer warns about read-only memory.
    """
    array = np.frombuffer(data, np.uint8)
    view = (ctypes.c_ubyte * array.size).from_address(array.ctypes.data)
    view.owner = array  # type: ignore[attr-defined]
    return torch.frombuffer(view, dtype=torch.uint8)
