"""Small data sets for the tests of rhoselect.data."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rhoselect.data import ArrowDataset
from rhoselect.errors import UserError

CPU = torch.device("cpu")


def image_splits(seed: int = 0, sizes: tuple[int, int] = (50, 20)) -> dict[str, Any]:
    """Random images [N, 2, 4, 3] of 5 classes, each class present."""
    random = np.random.default_rng(seed)
    return {
        name: (random.integers(0, 256, (n, 2, 4, 3), np.uint8), np.arange(n) % 5)
        for name, n in zip(("train", "test"), sizes, strict=True)
    }


def idx_bytes(array: np.ndarray) -> bytes:
    """The published layout: two zero bytes, type 8, dimensions, big-endian sizes, the bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def raw_inputs(dataset: ArrowDataset, split: str = "train") -> np.ndarray:
    """Inputs of a split as they were before normalisation."""
    points, m = dataset.split(split), dataset.manifest
    inputs: np.ndarray = points.read(points.indices, CPU).inputs.numpy()
    if m.inputs.kind == "image":
        mean, std = (np.reshape(values, (-1, 1, 1)) for values in (m.mean, m.std))
        inputs = np.round((inputs * std + mean) * 255)
    return inputs


def labels(dataset: ArrowDataset, split: str = "train") -> list[int]:
    """Labels of a split."""
    points = dataset.split(split)
    found: list[int] = points.labels(points.indices).tolist()
    return found


@contextlib.contextmanager
def refused(pattern: str, kind: type[UserError]) -> Iterator[None]:
    """A UserError of that kind, in one line, that matches ``pattern``."""
    with pytest.raises(kind, match=pattern) as caught:
        yield
    assert "\n" not in str(caught.value)


def entries(folder: Path) -> list[str]:
    """Names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())
