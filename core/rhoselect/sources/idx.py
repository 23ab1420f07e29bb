"""The IDX format of MNIST and its kin: big-endian header, then bytes; often gzipped."""

from __future__ import annotations

import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from rhoselect.data.manifest import Array
from rhoselect.errors import DataError
from rhoselect.sources.source import Splits
from rhoselect.sources.unpacking import gunzip

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
QMNIST_FILES = {
    split: (f"qmnist-{split}-images-idx3-ubyte", f"qmnist-{split}-labels-idx2-int")
    for split in ("train", "test")
}
UBYTE, INT = 8, 12
DTYPES: dict[int, np.dtype[Any]] = {UBYTE: np.dtype(np.uint8), INT: np.dtype(">i4")}
NAMES = {UBYTE: "unsigned bytes", INT: "big-endian 32-bit integers"}


def read_idx_folder(folder: Path) -> Splits:
    """Images [N, 1, H, W] uint8 and labels [N] uint8 of the four files, each gzipped or not."""
    if not folder.is_dir():
        raise DataError(f"source {folder}: no such folder; allowed one that holds IDX files")
    splits = {}
    for split, (images, labels) in IDX_FILES.items():
        pixels = read_idx(find_idx(folder, images), 3)
        splits[split] = pixels[:, None], read_idx(find_idx(folder, labels), 1)
    return splits


def read_qmnist(folder: Path) -> Splits:
    """Images [N, 1, 28, 28] uint8 and labels [N] of QMNIST (Yadav & Bottou 2019).

    A row of its label files has 8 integers, of which the first is the class.
    """
    if not folder.is_dir():
        raise DataError(f"source {folder}: no such folder; allowed one of QMNIST's four files")
    splits = {}
    for split, (images, labels) in QMNIST_FILES.items():
        pixels = read_idx(find_idx(folder, images), 3)
        path = find_idx(folder, labels)
        rows = read_idx(path, 2, INT)
        if rows.shape[1] != 8:
            raise DataError(f"{path}: got rows of {rows.shape[1]} integers, allowed 8 in QMNIST")
        splits[split] = pixels[:, None], rows[:, 0].astype(np.int64)
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
        return gunzip(path) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}; get the file again") from None


def read_idx(path: Path, ndim: int, kind: int = UBYTE) -> Array:
    """An array of ``kind`` in ``ndim`` dimensions. Raises DataError if it is not that."""
    raw = read_bytes(path)
    magic = bytes((0, 0, kind, ndim))
    if raw[:4] != magic:
        raise DataError(
            f"{path}: got magic number {raw[:4].hex()}, allowed {magic.hex()}: {NAMES[kind]} in"
            f" {ndim} dimension{'s' if ndim > 1 else ''}"
        )
    header = 4 + 4 * ndim
    shape = [int.from_bytes(raw[place : place + 4], "big") for place in range(4, header, 4)]
    expected = header + math.prod(shape) * DTYPES[kind].itemsize
    if len(raw) != expected:
        raise DataError(
            f"{path}: got {len(raw)} bytes, allowed {expected} by its header; get the file again"
        )
    return np.frombuffer(raw, DTYPES[kind], offset=header).reshape(shape)
