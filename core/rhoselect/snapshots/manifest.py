"""Where each tensor of a snapshot lies in a buffer that is, byte for byte, a safetensors file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

WEIGHTS, STATE = "weights.", "state."  # prefixes of the names in a buffer
_CODES = {
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
DTYPES = {code: dtype for dtype, code in _CODES.items()}


@dataclass(frozen=True, slots=True)
class Span:
    """A tensor's place: bytes ``begin`` to ``end`` of the buffer."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Manifest:
    """The header of a buffer, its ``spans`` in the order of their places, and its size in bytes."""

    header: bytes
    spans: tuple[Span, ...]
    size: int

    @classmethod
    def of(
        cls,
        tensors: Mapping[str, Tensor],
        layout: Mapping[str, torch.dtype],
        state: Mapping[str, Tensor],
    ) -> Manifest:
        """The manifest of the ``tensors`` that ``layout`` names, in its dtypes, and ``state``."""
        wanted = [(WEIGHTS + n, dtype, tensors[n].shape) for n, dtype in layout.items()]
        wanted += [(STATE + n, t.dtype, t.shape) for n, t in state.items()]
        wanted.sort(key=lambda each: -each[1].itemsize)  # so that every tensor is aligned
        described, end = {}, 0
        for name, dtype, shape in wanted:
            begin, end = end, end + math.prod(shape) * dtype.itemsize
            described[name] = {
                "dtype": _CODES[dtype],
                "shape": [*shape],
                "data_offsets": [begin, end],
            }
        text = json.dumps(described).encode()
        text += b" " * (-(8 + len(text)) % 64)  # data begin on a line of the processor's cache
        return cls.parse(len(text).to_bytes(8, "little") + text)

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """The manifest of a buffer that begins with ``data``."""
        start = 8 + int.from_bytes(data[:8], "little")
        spans = tuple(
            Span(
                name,
                DTYPES[entry["dtype"]],
                tuple(entry["shape"]),
                start + entry["data_offsets"][0],
                start + entry["data_offsets"][1],
            )
            for name, entry in json.loads(data[8:start]).items()
        )
        return cls(data[:start], spans, spans[-1].end if spans else start)
