"""A snapshot encoded for the network: safetensors, with version and checksum as metadata."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

from rhoselect.errors import RunError
from rhoselect.snapshots.format import STATE, WEIGHTS, Data, pack, unpack

Tensors = dict[str, Tensor]
Decoded = tuple[int, Tensors, Tensors]
"""Version, weights and state of a snapshot."""


def encode(version: int, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bytearray:
    """The bytes of a snapshot. Tensors on another device are copied to the CPU."""
    tensors = {WEIGHTS + name: t for name, t in weights.items()}
    tensors |= {STATE + name: t for name, t in state.items()}
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    metadata = {"version": str(version), "crc32": str(_checksum(version, tensors))}
    return pack(tensors, metadata=metadata)


def decode(data: Data, travelled: bool = True) -> Decoded:
    """The snapshot in ``data``, as CPU tensors over ``data`` itself: do not write to them.

    Raises RunError unless ``data`` is one complete snapshot and, if it has ``travelled`` through a
    network, has the right checksum.
    """
    try:
        tensors, metadata = unpack(data)
        version, checksum = int(metadata["version"]), int(metadata["crc32"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"snapshot of {len(data)} bytes: not readable: {error}") from None
    if travelled and _checksum(version, tensors) != checksum:
        raise RunError(f"snapshot {version}: checksum differs, its bytes changed on the way")
    return (
        version,
        {n.removeprefix(WEIGHTS): t for n, t in tensors.items() if n.startswith(WEIGHTS)},
        {n.removeprefix(STATE): t for n, t in tensors.items() if n.startswith(STATE)},
    )


def _checksum(version: int, tensors: Tensors) -> int:
    """CRC-32 of a snapshot's version, names, dtypes, shapes and bytes, in the order of names.

    It detects transmission errors, not attacks.
    """
    checksum = zlib.crc32(f"{version}".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        checksum = zlib.crc32(f"{name} {tensor.dtype} {[*tensor.shape]} ".encode(), checksum)
        flat = tensor.reshape(-1).view(torch.uint8)
        checksum = zlib.crc32(flat.numpy().data, checksum)
    return checksum
