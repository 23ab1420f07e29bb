"""``rhoctl data import KIND SRC DST``: from the sources that people have to a data set on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from rhoselect.data.arrow import ArrowDataset
from rhoselect.data.manifest import Encoding, Pairs
from rhoselect.errors import DataError, faults, listed, shortened
from rhoselect.importers.recipe import Recipe
from rhoselect.importers.writer import check_destination, write_found
from rhoselect.sources.ambiguous_mnist import read_ambiguous_mnist
from rhoselect.sources.arrays import read_npz
from rhoselect.sources.cifar import read_cifar
from rhoselect.sources.delimited import read_csv, read_tsv
from rhoselect.sources.fashion_mnist import read_fashion_mnist
from rhoselect.sources.folders import CINIC_CLASSES, read_clothing1m, read_image_folder
from rhoselect.sources.hugging_face import read_hugging_face
from rhoselect.sources.idx import read_idx_folder, read_qmnist
from rhoselect.sources.images import bombs_refused
from rhoselect.sources.parquet import read_parquet
from rhoselect.sources.source import Found, Options
from rhoselect.sources.text import read_cola, read_sst2
from rhoselect.sources.webdataset import read_webdataset


def _fashion_mnist(path: Path, _: Options) -> Found:
    splits, source = read_fashion_mnist(str(path))
    return Found("image", splits, 10, source=source)


READERS: Mapping[str, Callable[[Path, Options], Found]] = {
    "fashion-mnist": _fashion_mnist,
    "idx": lambda path, _: Found("image", read_idx_folder(path)),
    "qmnist": lambda path, _: Found("image", read_qmnist(path), 10),
    "cifar-10": lambda path, _: read_cifar(path, 10),
    "cifar-100": lambda path, _: read_cifar(path, 100),
    "cinic-10": lambda path, options: read_image_folder(path, options, CINIC_CLASSES),
    "image-folder": read_image_folder,
    "clothing-1m": read_clothing1m,
    "ambiguous-mnist": lambda path, _: read_ambiguous_mnist(path),
    "cola": read_cola,
    "sst-2": read_sst2,
    "hugging-face": read_hugging_face,
    "webdataset": read_webdataset,
    "numpy": read_npz,
    "parquet": read_parquet,
    "csv": read_csv,
    "tsv": read_tsv,
}
KINDS = tuple(READERS)
READING = frozenset(field.name for field in fields(Options))
MIXING = frozenset(field.name for field in fields(Recipe))
TABLES = ("hugging-face", "parquet", "csv", "tsv")
SHAPED = (*TABLES, "numpy")
OF_FILES = ("cinic-10", "image-folder", "clothing-1m", "hugging-face", "webdataset", "parquet")
ENDINGS = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".npz": "numpy"}
"""The kind of a file with this ending."""
CIFAR_PAIRS: Pairs = ((9, 1), (2, 0), (4, 7), (3, 5), (5, 3))
MNIST_PAIRS: Pairs = ((7, 1), (2, 7), (5, 6), (6, 5), (3, 8))
CONFUSABLE: Mapping[str, Pairs] = {
    "fashion-mnist": ((6, 0), (4, 2), (9, 7), (3, 0)),
    "cifar-10": CIFAR_PAIRS,
    "cinic-10": CIFAR_PAIRS,
    "qmnist": MNIST_PAIRS,
    "ambiguous-mnist": MNIST_PAIRS,
}
"""Confusable classes (from, to) of ``noise_pairs="auto"``. Those of CIFAR-10 (truck to automobile,
bird to airplane, deer to horse, cat and dog) and MNIST (7 to 1, 2 to 7, 5 and 6, 3 to 8) are those
of Patrini et al. 2017; of Fashion-MNIST shirt to T-shirt, coat to pullover, ankle boot to sneaker,
dress to T-shirt."""


def import_dataset(
    kind: str,
    src: str | Path,
    dst: str | Path,
    *,
    classes: int | None = None,
    shard_rows: int | None = None,
    noise_pairs: Pairs | str = (),
    **options: Any,
) -> ArrowDataset:
    """Read ``src`` as ``kind`` (one of KINDS), write it to the folder ``dst``, and open that.

    ``options`` are those of ``Options`` and ``Recipe``; ``noise_pairs="auto"`` takes the kind's
    known pairs. Raises DataError, and then leaves nothing.
    """
    reading = Options(**{name: options[name] for name in READING & set(options)})
    recipe = {name: value for name, value in options.items() if name not in READING - MIXING}
    check_destination(Path(dst))
    _check(kind, reading)
    _check_ending(kind, Path(src))
    recipe = _checked_recipe(kind, recipe | {"noise_pairs": noise_pairs})
    with bombs_refused(), _unreadable_is_said(Path(src)):
        found = READERS[kind](Path(src), reading)
        found = replace(found, source=found.source or f"{kind} {Path(src).name}")
        if classes is not None:
            found = replace(found, classes=classes)
        write_found(dst, found, shard_rows, reading.encoding, Recipe(**recipe))
    return ArrowDataset.open(dst)


@contextmanager
def _unreadable_is_said(src: Path) -> Iterator[None]:
    """Tell what this user may not read from what is missing or broken. Raises PermissionError, also
    for a folder below ``src``: a search by pattern would find nothing in it."""
    for _ in os.walk(src, onerror=_raise_unreadable):
        pass
    try:
        yield
    except DataError as error:
        if isinstance(error.__context__, PermissionError):
            raise error.__context__ from None
        raise


def _raise_unreadable(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise error


def check_options(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of ``import_dataset`` from ``options`` as a file has them: lists become
    tuples. Raises DataError for what the import would refuse before it reads anything.
    """
    unknown = set(options) - READING - MIXING
    if unknown:
        allowed = ", ".join(sorted(READING | MIXING))
        raise DataError(f"options: got {listed(sorted(unknown))}, allowed {allowed}")
    given = dict(options)
    if given.get("noise_pairs") == "auto":
        given["noise_pairs"] = _known_pairs(kind)
    try:
        reading = TypeAdapter(Options).validate_python({k: given[k] for k in READING & set(given)})
        mixing = TypeAdapter(Recipe).validate_python({k: given[k] for k in MIXING & set(given)})
    except ValidationError as error:
        raise DataError(faults(map(_fault, error.errors()))) from None
    _check(kind, reading)
    mixing.check()
    return {**vars(reading), **vars(mixing)}


def _fault(error: ErrorDetails) -> tuple[str, str]:
    """The option, and what is wrong with it."""
    got = shortened(repr(error["input"]), 100)
    return ".".join(map(str, error["loc"])), f"got {got}; {error['msg'].lower()}"


def _checked_recipe(kind: str, recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with the kind's known pairs for "auto". Raises DataError."""
    if recipe["noise_pairs"] == "auto":
        recipe["noise_pairs"] = _known_pairs(kind)
    Recipe(**recipe).check()
    return recipe


def _known_pairs(kind: str) -> Pairs:
    """The confusable classes of a kind. Raises DataError where none are known."""
    if kind not in CONFUSABLE:
        known = ", ".join(CONFUSABLE)
        raise DataError(f"noise pairs: none are known of {kind}, but of {known}; give them")
    return CONFUSABLE[kind]


def _check(kind: str, options: Options) -> None:
    """Raises DataError for an unknown kind, and for options that make no sense with it."""
    if kind not in READERS:
        raise DataError(f"kind: got {kind!r}, allowed one of {', '.join(KINDS)}")
    if options.encoding is not None and options.encoding not in get_args(Encoding):
        allowed = ", ".join(get_args(Encoding))
        raise DataError(f"encoding: got {options.encoding!r}, allowed one of {allowed}")
    shape = options.shape
    tables = ", ".join(TABLES)
    if shape is not None and (kind not in SHAPED or not shape or min(shape) < 1):
        allowed = ", ".join(SHAPED)
        raise DataError(f"shape: got {shape} for {kind}, allowed sizes from 1, for {allowed}")
    if options.resize is not None and (kind not in OF_FILES or options.resize < 1):
        allowed = ", ".join(OF_FILES)
        raise DataError(
            f"resize: got {options.resize} for {kind}, allowed 1 or more, for {allowed}"
        )
    if options.columns is not None and (kind not in TABLES or not all(options.columns)):
        raise DataError(
            f"columns: got {listed(options.columns)} for {kind}, allowed names for {tables}"
        )
    if options.tokens < 1 or options.vocabulary < 2:
        raise DataError(
            f"tokens, vocabulary: got {options.tokens}, {options.vocabulary}, allowed 1 or more, 2"
            " or more"
        )


def _check_ending(kind: str, src: Path) -> None:
    """Raises DataError for a file whose ending is that of another kind."""
    theirs = ENDINGS.get(src.suffix.lower(), kind)
    if theirs != kind and (kind, theirs) != ("csv", "tsv"):
        raise DataError(
            f"source {src}: got a {src.suffix} file for {kind}; give its kind: rhoctl data import"
            f" {theirs} {src} DST"
        )
