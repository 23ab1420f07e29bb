"""A snapshot as bytes: safetensors, whose header is the manifest (names, shapes, dtypes), with the
version and a checksum in its metadata. One contiguous buffer; nothing is ever unpickled."""

from __future__ import annotations

import json
import zlib

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rhoselect.errors import RunError
from rhoselect.types import Snapshot

WEIGHTS, STATE = "weights.", "state."


def encode(snapshot: Snapshot) -> bytes:
    """Serialise; tensors are copied to the CPU if they are elsewhere."""
    tensors = {WEIGHTS + name: t for name, t in snapshot.tensors.items()}
    tensors |= {STATE + name: t for name, t in snapshot.state.items()}
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    checksum = _checksum(snapshot.version, tensors)
    metadata = {"version": str(snapshot.version), "crc32": str(checksum)}
    return save(tensors, metadata)


def decode(data: bytes) -> Snapshot:
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
    return Snapshot(
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
