"""A snapshot as bytes that cross machines: safetensors, with version and checksum as metadata.

Its header is the manifest (names, shapes, dtypes). Nothing is ever unpickled.
"""

from __future__ import annotations

import ctypes
import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from rhoselect.errors import RunError
from rhoselect.snapshots.manifest import DTYPES, STATE, WEIGHTS

Tensors = dict[str, Tensor]
Decoded = tuple[int, Tensors, Tensors]
"""Version, weights and state of a snapshot."""


def encode(version: int, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bytes:
    """Serialise; tensors are copied to the CPU if they are elsewhere."""
    tensors = {WEIGHTS + name: t for name, t in weights.items()}
    tensors |= {STATE + name: t for name, t in state.items()}
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    metadata = {"version": str(version), "crc32": str(_checksum(version, tensors))}
    return save(tensors, metadata)


def decode(data: bytes | NDArray[np.uint8]) -> Decoded:
    """The snapshot back, in CPU tensors over ``data`` itself: nobody may write to them.

    Raises RunError for anything but a whole snapshot.
    """
    try:
        start = 8 + int.from_bytes(bytes(data[:8]), "little")
        header = json.loads(bytes(data[8:start]))
        metadata = header.pop("__metadata__")
        version, checksum = int(metadata["version"]), int(metadata["crc32"])
        tensors = _over(_memory(data), start, header)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"snapshot of {len(data)} bytes: not readable: {error}") from None
    if _checksum(version, tensors) != checksum:
        raise RunError(f"snapshot {version}: checksum differs, its bytes changed on the way")
    return (
        version,
        {n.removeprefix(WEIGHTS): t for n, t in tensors.items() if n.startswith(WEIGHTS)},
        {n.removeprefix(STATE): t for n, t in tensors.items() if n.startswith(STATE)},
    )


def _memory(data: bytes | NDArray[np.uint8]) -> ctypes.Array[ctypes.c_ubyte]:
    """The memory of ``data``, kept alive, as torch takes it: as if it could be written to."""
    array = np.frombuffer(data, np.uint8)
    view = (ctypes.c_ubyte * array.size).from_address(array.ctypes.data)
    view.owner = array  # type: ignore[attr-defined]
    return view


def _over(view: ctypes.Array[ctypes.c_ubyte], start: int, header: dict[str, Any]) -> Tensors:
    """Tensors over what follows a header, which has to name every byte of it once, in order."""
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        if entry["data_offsets"] != [begin, end] or min(shape, default=0) < 0:
            raise ValueError(f"{name} has a place that is not its own")
        if start + end > len(view):
            raise ValueError("it is cut short")
        if begin == end:
            tensors[name] = torch.empty(shape, dtype=dtype)
        else:
            flat = torch.frombuffer(view, dtype=dtype, count=math.prod(shape), offset=start + begin)
            tensors[name] = flat.reshape(shape)
    if start + end != len(view):
        raise ValueError("more bytes than tensors")
    return tensors


def _checksum(version: int, tensors: Tensors) -> int:
    """CRC-32 over all that a snapshot says, in name order: finds accidents, not attackers."""
    checksum = zlib.crc32(f"{version}".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        checksum = zlib.crc32(f"{name} {tensor.dtype} {[*tensor.shape]} ".encode(), checksum)
        flat = tensor.reshape(-1).view(torch.uint8)
        checksum = zlib.crc32(flat.numpy().data, checksum)
    return checksum
