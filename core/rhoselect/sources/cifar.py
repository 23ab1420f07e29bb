"""The binary version of CIFAR-10 and CIFAR-100: records of label bytes and 3 x 32 x 32 pixels.

Layout as published at https://www.cs.toronto.edu/~kriz/cifar.html: a record is one label byte
(CIFAR-100: a coarse, then a fine one) and 3072 bytes, red, green and blue plane, row by row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rhoselect.data.manifest import Array
from rhoselect.errors import DataError
from rhoselect.sources.idx import read_bytes
from rhoselect.sources.source import Found

PIXELS = 3 * 32 * 32
FILES: Mapping[int, Mapping[str, Sequence[str]]] = {
    10: {
        "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test": ("test_batch.bin",),
    },
    100: {"train": ("train.bin",), "test": ("test.bin",)},
}


def read_cifar(folder: Path, classes: int) -> Found:
    """Images [N, 3, 32, 32] uint8 and labels [N] (CIFAR-100: the fine ones) of the .bin files."""
    splits = {}
    for split, names in FILES[classes].items():
        records = np.concatenate([_records(folder / name, classes) for name in names])
        labels = records[:, -PIXELS - 1].astype(np.int64)
        splits[split] = records[:, -PIXELS:].reshape(-1, 3, 32, 32), labels
    return Found("image", splits, classes)


def _records(path: Path, classes: int) -> Array:
    """Records [N, 1 or 2 labels + 3072] uint8 of a file."""
    if not path.is_file():
        raise DataError(
            f"source {path}: no such file; allowed the folder of CIFAR-{classes}'s binary version"
            f" (cifar-{classes}-binary.tar.gz, unpacked)"
        )
    size, raw = PIXELS + (1 if classes == 10 else 2), read_bytes(path)
    if not raw or len(raw) % size:
        raise DataError(
            f"{path}: got {len(raw)} bytes, allowed records of {size}; get the binary version anew"
        )
    records = np.frombuffer(raw, np.uint8).reshape(-1, size)
    greatest = int(records[:, -PIXELS - 1].max())
    if greatest >= classes:
        raise DataError(
            f"{path}: got label {greatest}, allowed 0 to {classes - 1}; is it CIFAR-{classes}?"
        )
    return records
