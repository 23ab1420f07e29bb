"""A snapshot as bytes that cross machines: safetensors, with version and checksum as metadata.

Its header is the manifest (names, shapes, dtypes). Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rhoselect.errors import RunError
from rhoselect.snapshots.manifest import STATE, WEIGHTS

Decoded = tuple[int, dict[str, Tensor], dict[str, Tensor]]
"""Version, weights and state of a snapshot."""


def encode(version: int, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bytes:
    """Serialise; tensors are copied to the CPU if they are elsewhere."""
    tensors = {WEIGHTS + name: t for name, t in weights.items()}
    tensors |= {STATE + name: t for name, t in state.items()}
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    metadata = {"version": str(version), "crc32": str(_checksum(version, tensors))}
    return save(tensors, metadata)


def decode(data: bytes) -> Decoded:
    """The snapshot back, in fresh CPU tensors. Raises RunError for anything else."""
    try:
        tensors = load(data)
        header_bytes = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + header_bytes])["__metadata__"]
        version, checksum = int(metadata["version"]), int(metadata["crc32"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise RunError(f"snapshot of {len(data)} bytes: not readable: {error}") from None
    if _checksum(version, tensors) != checksum:
        raise RunError(f"snapshot {version}: checksum differs, its bytes changed on the way")
    return (
        version,
        {n.removeprefix(WEIGHTS): t for n, t in tensors.items() if n.startswith(WEIGHTS)},
        {n.removeprefix(STATE): t for n, t in tensors.items() if n.startswith(STATE)},
    )


def _checksum(version: int, tensors: dict[str, Tensor]) -> int:
    """CRC-32 over all that a snapshot says, in name order: finds accidents, not attackers."""
    checksum = zlib.crc32(f"{version}".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        checksum = zlib.crc32(f"{name} {tensor.dtype} {[*tensor.shape]} ".encode(), checksum)
        flat = tensor.reshape(-1).view(torch.uint8)
        checksum = zlib.crc32(flat.numpy().data, checksum)
    return checksum
