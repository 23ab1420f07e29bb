"""Splits in memory on their way to disk, checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rhoselect.data.base import Labels
from rhoselect.data.ids import first_unknown
from rhoselect.data.images import decode
from rhoselect.data.manifest import DTYPES, Array, Encoding, Inputs, Kind
from rhoselect.errors import DataError, listed
from rhoselect.sources.images import encode
from rhoselect.sources.source import ORDER, Splits
from rhoselect.types import Indices

STEP_ROWS = 4096


@dataclass(frozen=True)
class Columns:
    """A split: inputs [R, ...], labels [R] int64, clean labels [R] int64 if there is noise.

    Encoded inputs are an object array [R] of bytes. ``origin`` [R] counts the rows of all splits as
    they were read; it is -1 of a row that was made.
    """

    inputs: Array
    labels: Labels
    origin: Indices
    clean: Labels | None = None

    def rows(self, which: Array | slice) -> Columns:
        """The rows that a mask, a slice or their numbers pick."""
        clean = None if self.clean is None else self.clean[which]
        return Columns(self.inputs[which], self.labels[which], self.origin[which], clean)

    @property
    def true_labels(self) -> Labels:
        """Labels [R] before noise was put in."""
        return self.labels if self.clean is None else self.clean

    def joined(self, more: Columns) -> Columns:
        """These rows, then those of ``more``, which are of the same kind."""
        assert (self.clean is None) == (more.clean is None)
        clean = None
        if self.clean is not None and more.clean is not None:
            clean = np.concatenate([self.clean, more.clean])
        return Columns(
            np.concatenate([self.inputs, more.inputs]),
            np.concatenate([self.labels, more.labels]),
            np.concatenate([self.origin, more.origin]),
            clean,
        )


def checked_columns(
    kind: Kind, splits: Splits, encoding: Encoding | None, needed: Sequence[str]
) -> dict[str, Columns]:
    """The splits in the order of rows on disk. Raises DataError for what ``kind`` cannot hold."""
    if encoding is not None and kind != "image":
        raise DataError(f"encoding {encoding}: got inputs of kind {kind}, allowed images")
    made, start = {}, 0
    for name in _names(splits, needed):
        made[name] = _columns(kind, name, *splits[name], start)
        start += len(made[name].labels)
    return made


def check_vocabulary(parts: Mapping[str, Columns], vocabulary: int) -> None:
    """Raise DataError for a token id outside 0 ... ``vocabulary`` - 1."""
    for name, part in parts.items():
        if found := first_unknown(part.inputs, vocabulary):
            row, unknown = found
            raise DataError(
                f"{name}: got token id {unknown} in row {row}, allowed 0 to {vocabulary - 1}, as"
                f" the vocabulary is {vocabulary}"
            )


def _names(splits: Splits, needed: Sequence[str]) -> list[str]:
    unknown = sorted(splits.keys() - set(ORDER))
    missing = sorted(set(needed) - splits.keys())
    if unknown or missing:
        raise DataError(
            f"splits: got {listed(splits)}, allowed train, test and, if you like, holdout"
        )
    return [name for name in ORDER if name in splits]


def _columns(kind: Kind, name: str, inputs: Array, labels: Array, start: int) -> Columns:
    """A split whose first row is row ``start`` of all."""
    if len(inputs) != len(labels) or len(labels) == 0:
        raise DataError(
            f"{name}: got {len(inputs)} inputs and {len(labels)} labels, allowed as many of one as"
            " of the other, at least 1"
        )
    origin = np.arange(start, start + len(labels))
    if inputs.dtype == object:
        _check_blobs(kind, name, inputs)
        return Columns(inputs, _labels(name, labels), origin)
    ndim = {"image": (4,), "tokens": (2,), "float": range(2, 33)}[kind]
    if inputs.dtype != DTYPES[kind] or inputs.ndim not in ndim or 0 in inputs.shape:
        raise DataError(
            f"{name}: got inputs {list(inputs.shape)} {inputs.dtype}, allowed for kind {kind}:"
            f" {np.dtype(DTYPES[kind])} in {ndim[0]}{' or more' if len(ndim) > 1 else ''}"
            " dimensions, none of them 0"
        )
    if kind == "float" and not np.isfinite(inputs).all():
        row = int(np.argmin(np.isfinite(inputs.reshape(len(inputs), -1)).all(axis=1)))
        raise DataError(f"{name}: got a NaN or infinite input in row {row}, allowed finite floats")
    return Columns(np.ascontiguousarray(inputs), _labels(name, labels), origin)


def _check_blobs(kind: Kind, name: str, inputs: Array) -> None:
    if kind != "image" or inputs.ndim != 1 or not all(isinstance(x, bytes) for x in inputs):
        raise DataError(
            f"{name}: got inputs {list(inputs.shape)} of objects for kind {kind}, allowed for"
            " encoded images: [R] of bytes"
        )


def _labels(name: str, labels: Array) -> Labels:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{name}: got labels {list(labels.shape)} {labels.dtype}, allowed integers [R]"
        )
    return labels.astype(np.int64)


def encoded(parts: Mapping[str, Columns], encoding: Encoding | None) -> dict[str, Columns]:
    """Images as the bytes that are stored. Raises DataError for bytes without an ``encoding``."""
    made = {}
    for name, part in parts.items():
        if encoding is None and part.inputs.dtype == object:
            raise DataError(f"{name}: got bytes without an encoding, allowed encoding jpeg or png")
        if encoding is not None and part.inputs.dtype != object:
            blobs = np.empty(len(part.inputs), object)
            blobs[:] = [encode(image, encoding) for image in part.inputs]
            part = replace(part, inputs=blobs)
        made[name] = part
    return made


def images(name: str, part: Columns, inputs: Inputs) -> Iterator[Array]:
    """Decoded images [R, C, H, W] uint8 of a split, in steps. Raises DataError naming a row."""
    for start in range(0, len(part.inputs), STEP_ROWS):
        some = part.inputs[start : start + STEP_ROWS]
        if inputs.encoding is None:
            yield some
            continue
        decoded = np.empty((len(some), *inputs.shape), np.uint8)
        for row, content in enumerate(some):
            where = f"{name}: row {start + row}"
            decoded[row] = decode(content, inputs.encoding, inputs.shape, where)
        yield decoded


def input_shape(parts: Mapping[str, Columns], encoding: Encoding | None) -> tuple[int, ...]:
    """Shape of one input; of encoded ones, that of the first. Raises DataError if splits differ."""
    if encoding is not None:
        return decode(parts["train"].inputs[0], encoding, None, "train: row 0").shape
    shapes = {name: part.inputs.shape[1:] for name, part in parts.items()}
    for name, shape in shapes.items():
        if shape != shapes["train"]:
            raise DataError(
                f"{name}: got inputs of shape {list(shape)}, allowed {list(shapes['train'])} as in"
                " train"
            )
    return shapes["train"]
