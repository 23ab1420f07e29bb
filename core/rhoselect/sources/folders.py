"""Images in folders: SPLIT/CLASS/*.png (or .jpg), and Clothing-1M with its lists of keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rhoselect.data.manifest import Array
from rhoselect.errors import DataError, listed, shortened
from rhoselect.sources.leftovers import Seen
from rhoselect.sources.origins import of_files
from rhoselect.sources.source import Found, Options, image_inputs, match_splits, unread_splits

ENDINGS = {".png", ".jpg", ".jpeg"}
OUTSIDE = "files beside the folders of classes, skipped"
NESTED = "pictures in folders below those of classes, skipped"
EMPTY = "folders of classes without a picture"
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

    Raises DataError for other counts than ``classes``, for a class of train without an image, and
    for a class that train does not have.
    """
    if not folder.is_dir():
        raise DataError(f"source {folder}: no such folder; allowed one of train/CLASS/*.png and so")
    seen = Seen()
    there = [path.name for path in seen.entries(folder) if path.is_dir()]
    found = match_splits(there, f"source {folder}", options.test)
    pictures = {ours: _pictures(folder / theirs, seen) for ours, theirs in found.items()}
    names = list(pictures["train"])
    if classes is not None and len(names) != classes:
        raise DataError(
            f"source {folder / found['train']}: got {len(names)} folders of classes, allowed"
            f" {classes}"
        )
    if empty := [name for name, paths in pictures["train"].items() if not paths]:
        raise DataError(
            f"source {folder / found['train']}: got no images in {listed(empty)}, allowed .png,"
            " .jpg or .jpeg files directly in each class's folder; convert pictures of other kinds,"
            " and move folders away that are no classes"
        )
    splits = {
        ours: _split(folder / found[ours], inner, names, options, seen)
        for ours, inner in pictures.items()
    }
    notes = [*unread_splits(there, found), *_order_note(names), *seen.notes()]
    origins = {
        ours: of_files([path.relative_to(folder).as_posix() for path in _paths(inner)])
        for ours, inner in pictures.items()
    }
    return Found("image", splits, notes=notes, class_names=names, origins=origins)


def _paths(pictures: Mapping[str, Sequence[Path]]) -> list[Path]:
    """The images of a split, class by class."""
    return [path for inner in pictures.values() for path in inner]


def _pictures(folder: Path, seen: Seen) -> dict[str, list[Path]]:
    """{class: its images} of a split, both by name. What is passed over is counted."""
    found: dict[str, list[Path]] = {}
    for inner in seen.entries(folder):
        if not inner.is_dir():
            seen.counts[OUTSIDE] += 1
            continue
        found[inner.name] = []
        for path in seen.entries(inner):
            if path.is_dir():
                seen.counts[NESTED] += sum(map(_is_picture, path.rglob("*")))
            elif _is_picture(path):
                found[inner.name].append(path)
            else:
                seen.skip(path.name)
        seen.counts[EMPTY] += not found[inner.name]
    return found


def _is_picture(path: Path) -> bool:
    """Whether it is an image file by name, or a link: one that leads nowhere is an image that is
    missing."""
    return path.suffix.lower() in ENDINGS and (path.is_file() or path.is_symlink())


def _split(
    folder: Path,
    pictures: Mapping[str, Sequence[Path]],
    names: Sequence[str],
    options: Options,
    seen: Seen,
) -> tuple[Array, Array]:
    if unknown := [name for name in pictures if name not in names]:
        raise DataError(f"source {folder / unknown[0]}: got a class that train has no folder of")
    paths = _paths(pictures)
    if not paths:
        raise DataError(f"source {folder}: got no images, allowed CLASS/*.png, .jpg or .jpeg")
    labels = [names.index(name) for name, inner in pictures.items() for _ in inner]
    return _images(paths, options, seen), np.array(labels, np.int64)


def _order_note(names: Sequence[str]) -> list[str]:
    """A note on folders that are named by numbers, if their classes get other ones."""
    if not all(name.isdecimal() for name in names):
        return []
    moved = [f"{name} is class {place}" for place, name in enumerate(names) if int(name) != place]
    if not moved:
        return []
    return [f"classes are numbered in the order of names as texts: {listed(moved)}"]


def _images(paths: Sequence[Path], options: Options, seen: Seen) -> Array:
    return image_inputs(((str(path), _content(path)) for path in paths), options, seen)


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
    splits, origins, seen = {}, {}, Seen()
    for split, (labels_file, lists) in CLOTHING_SPLITS.items():
        labels = _labels(folder / labels_file)
        keys = [key for name in lists for key in _lines(folder / name)]
        if missing := [key for key in keys if key not in labels]:
            raise DataError(
                f"{folder / lists[0]}: got key {shortened(missing[0])!r}, which {labels_file} has"
                " no label of"
            )
        paths = [_inside(folder, key) for key in keys]
        inputs = _images(paths, options, seen)
        splits[split] = inputs, np.array([labels[key] for key in keys], np.int64)
        origins[split] = of_files(keys)
    return Found("image", splits, CLOTHING_CLASSES, notes=seen.notes(), origins=origins)


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
        raise DataError(
            f"source {folder}: got key {shortened(key)!r}, allowed paths inside the folder"
        )
    return path
