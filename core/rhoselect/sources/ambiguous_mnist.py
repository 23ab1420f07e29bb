"""Ambiguous-MNIST (Mukhoti et al. 2021): samples with ten labels each, as two arrays.

Layout as published: ``amnist_samples`` [S, 1, 28, 28] float in [0, 1] and ``amnist_labels`` [S, L]
integers, as .pt; also read as .npy or as one .npz. Every label of a sample makes a point, in order;
the first 60,000 points are train, the others test.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from pickle import UnpicklingError  # raised by torch; nothing here unpickles

import numpy as np
import torch

from rhoselect.data.manifest import Array
from rhoselect.errors import DataError
from rhoselect.importing import one_line
from rhoselect.sources.source import Found
from rhoselect.sources.unpacking import check_members

SAMPLES, LABELS = "amnist_samples", "amnist_labels"
TRAIN_POINTS = 60_000


def read_ambiguous_mnist(folder: Path) -> Found:
    """Images [N, 1, 28, 28] uint8 and labels [N]. Raises DataError."""
    samples, labels = _array(folder, SAMPLES), _array(folder, LABELS)
    fits = samples.shape[1:] == (1, 28, 28) and labels.shape[:1] == samples.shape[:1]
    if not fits or labels.ndim != 2 or samples.dtype.kind != "f" or labels.dtype.kind not in "iu":
        raise DataError(
            f"source {folder}: got samples {list(samples.shape)} {samples.dtype} and labels"
            f" {list(labels.shape)} {labels.dtype}, allowed floats [S, 1, 28, 28] and integers"
            " [S, L]"
        )
    if samples.size == 0 or not (samples.min() >= 0 and samples.max() <= 1):
        raise DataError(f"source {folder}: got samples outside [0, 1], allowed within")
    images = np.repeat(np.round(samples * 255).astype(np.uint8), labels.shape[1], axis=0)
    flat = labels.reshape(-1)
    if len(flat) <= TRAIN_POINTS:
        raise DataError(
            f"source {folder}: got {len(flat)} points, allowed more than the {TRAIN_POINTS} of"
            " train; the others are test"
        )
    parts = {"train": slice(TRAIN_POINTS), "test": slice(TRAIN_POINTS, None)}
    return Found("image", {name: (images[part], flat[part]) for name, part in parts.items()}, 10)


def _array(folder: Path, name: str) -> Array:
    """The array ``name`` from .pt, .npy, or an .npz of both; never by unpickling objects."""
    for path in (folder / f"{name}.pt", folder / f"{name}.npy", *sorted(folder.glob("*.npz"))):
        if not path.is_file():
            continue
        try:
            if zipfile.is_zipfile(path):
                check_members(path)
            if path.suffix == ".pt":
                # weights_only: torch's own reader of tensors, which runs no code of the file.
                return np.asarray(torch.load(path, map_location="cpu", weights_only=True))
            loaded = np.load(path, allow_pickle=False)
            return np.asarray(loaded if path.suffix == ".npy" else loaded[name])
        except DataError:
            raise
        except (
            OSError,
            ValueError,
            EOFError,
            KeyError,
            RuntimeError,
            UnpicklingError,
            zipfile.BadZipFile,
        ) as error:
            raise DataError(
                f"{path}: not readable as an array {name}: {one_line(error)[:120]}"
            ) from None
    raise DataError(f"source {folder}: has neither {name}.pt nor {name}.npy nor an .npz archive")
