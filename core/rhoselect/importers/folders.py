"""Images in folders: SPLIT/CLASS/*.png (or .jpg), and Clothing-1M with its lists of keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rhoselect.data.manifest import Array
from rhoselect.errors import DataError
from rhoselect.importers.source import Found, Options, image_inputs, match_splits

ENDINGS = {".png", ".jpg", ".jpeg"}
CINIC_CLASSES = 10
CLOTHING_CLASSES = 14
CLOTHING_LABELS = [str(label) for label in range(CLOTHING_CLASSES)]
CLOTHING_SPLITS = {
    "train": ("noisy_label_kv.txt", ("noisy_train_key_list.txt",)),
    "holdout": ("clean_label_kv.txt", ("clean_train_key_list.txt", "clean_val_key_list.txt")),
    "test": ("clean_label_kv.txt", ("clean_test_key_list.txt",)),
}
"""Of each split the file of labels and the lists of its keys."""


def read_image_folder(folder: Path, options: Options, classes: int | None = None) -> Found:
    """Images of SPLIT/CLASS/*.png, .jpg, .jpeg; classes are numbered by name.

    Raises DataError for other counts than ``classes``, and for a class that train does not have.
    """
    if not folder.is_dir():
        raise DataError(f"source {folder}: no such folder; allowed one of train/CLASS/*.png and so")
    found = match_splits((p.name for p in folder.iterdir() if p.is_dir()), f"source {folder}")
    names = sorted(path.name for path in (folder / found["train"]).iterdir() if path.is_dir())
    if classes is not None and len(names) != classes:
        raise DataError(
            f"source {folder / found['train']}: got {len(names)} folders of classes, allowed"
            f" {classes}"
        )
    splits = {ours: _split(folder / theirs, names, options) for ours, theirs in found.items()}
    return Found("image", splits, len(names))


def _split(folder: Path, names: Sequence[str], options: Options) -> tuple[Array, Array]:
    paths, labels = [], []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if inner.name not in names:
            raise DataError(f"source {inner}: got a class that train has no folder of")
        images = sorted(p for p in inner.iterdir() if p.suffix.lower() in ENDINGS and p.is_file())
        paths += images
        labels += [names.index(inner.name)] * len(images)
    if not paths:
        raise DataError(f"source {folder}: got no images, allowed CLASS/*.png, .jpg or .jpeg")
    return _images(paths, options), np.array(labels, np.int64)


def _images(paths: Sequence[Path], options: Options) -> Array:
    return image_inputs(((str(path), _content(path)) for path in paths), options)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; get the file again") from None


def read_clothing1m(folder: Path, options: Options) -> Found:
    """Clothing-1M: train is the noisy part, holdout clean_train and clean_val, test clean_test.

    Lines of a ``…_kv.txt`` are "key label", those of a ``…_key_list.txt`` keys; a key is an
    image's path under ``folder``. Raises DataError for keys without a label, and for keys outside.
    """
    splits = {}
    for split, (labels_file, lists) in CLOTHING_SPLITS.items():
        labels = _labels(folder / labels_file)
        keys = [key for name in lists for key in _lines(folder / name)]
        if missing := [key for key in keys if key not in labels]:
            raise DataError(
                f"{folder / lists[0]}: got key {missing[0]!r}, which {labels_file} has no label of"
            )
        paths = [_inside(folder, key) for key in keys]
        inputs = _images(paths, options)
        splits[split] = inputs, np.array([labels[key] for key in keys], np.int64)
    return Found("image", splits, CLOTHING_CLASSES)


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read: {error}; allowed the folder of Clothing-1M's annotations"
        ) from None
    return [line.strip() for line in lines if line.strip()]


def _labels(path: Path) -> dict[str, int]:
    """{key: label}."""
    labels = {}
    for number, line in enumerate(_lines(path), 1):
        key, _, label = line.rpartition(" ")
        if not key or label not in CLOTHING_LABELS:
            raise DataError(
                f"{path}: line {number}: got {line[:80]!r}, allowed 'key label' with a label from"
                f" 0 to {CLOTHING_CLASSES - 1}"
            )
        labels[key] = CLOTHING_LABELS.index(label)
    return labels


def _inside(folder: Path, key: str) -> Path:
    path = folder / key
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"source {folder}: got key {key!r}, allowed paths inside the folder")
    return path
