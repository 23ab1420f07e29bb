"""The IDX format of MNIST and its kin: big-endian header, then bytes; often gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from rhoselect.data.columns import Splits
from rhoselect.data.manifest import Array
from rhoselect.errors import DataError

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
UBYTE = 8


def read_idx_folder(folder: Path) -> Splits:
    """Images [N, 1, H, W] uint8 and labels [N] uint8 of the four files, each gzipped or not."""
    if not folder.is_dir():
        raise DataError(f"source {folder}: no such folder; allowed one that holds IDX files")
    splits = {}
    for split, (images, labels) in IDX_FILES.items():
        pixels = read_idx(find_idx(folder, images), 3)
        splits[split] = pixels[:, None], read_idx(find_idx(folder, labels), 1)
    return splits


def find_idx(folder: Path, name: str) -> Path:
    """The file ``name`` or ``name``.gz. Raises DataError when neither is there."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"source {folder}: has neither {name} nor {name}.gz")


def read_bytes(path: Path) -> bytes:
    """A file's content, unzipped if its name ends in .gz. Raises DataError."""
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}; get the file again") from None


def read_idx(path: Path, ndim: int) -> Array:
    """An array of unsigned bytes in ``ndim`` dimensions. Raises DataError if it is not that."""
    raw = read_bytes(path)
    magic = bytes((0, 0, UBYTE, ndim))
    if raw[:4] != magic:
        raise DataError(
            f"{path}: got magic number {raw[:4].hex()}, allowed {magic.hex()}: unsigned bytes in"
            f" {ndim} dimension{'s' if ndim > 1 else ''}"
        )
    header = 4 + 4 * ndim
    shape = [int.from_bytes(raw[place : place + 4], "big") for place in range(4, header, 4)]
    expected = header + math.prod(shape)
    if len(raw) != expected:
        raise DataError(
            f"{path}: got {len(raw)} bytes, allowed {expected} by its header; get the file again"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)
