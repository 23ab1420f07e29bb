"""Sources of arrays: NumPy archives, and where the channels of images are."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from rhoselect.data.manifest import Array, Kind
from rhoselect.errors import DataError, listed
from rhoselect.importing import one_line
from rhoselect.sources.source import ORDER, Found, Options
from rhoselect.sources.unpacking import check_members

MOST_CHANNELS = 4
UNREADABLE = (
    *(OSError, ValueError, EOFError, TypeError, MemoryError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What broken archives raise. NotImplementedError is zipfile's for a compression that it does not
know, RuntimeError for an encrypted member; sizes that a header makes up do not fit into memory."""


def read_npz(path: Path, options: Options) -> Found:
    """Arrays x_train, y_train, x_test, y_test and perhaps x_holdout, y_holdout.

    uint8 inputs are images, as ``channels_first`` reads them; other integers are tokens [N, T];
    floats are [N, D…], stored as float32. With ``options.shape`` inputs [N, D] get that shape, and
    floats [N, H, W, C] become [N, C, H, W] if it is [C, H, W]. Raises DataError.
    """
    if not path.is_file():
        raise DataError(f"source {path}: no such file; allowed an .npz archive")
    try:
        check_members(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            _check_names(path, archive.files)
            arrays = {name: archive[name] for name in archive.files}
    except DataError:
        raise
    except UNREADABLE as error:
        raise DataError(f"source {path}: not a readable .npz archive: {one_line(error)}") from None
    for name, array in arrays.items():
        if array.ndim == 0:
            raise DataError(f"source {path}: {name}: got a single value, allowed an array of rows")
    kind = kind_of(arrays["x_train"])
    splits = {
        split: (_inputs(f"source {path}: x_{split}", x, kind, options.shape), arrays[f"y_{split}"])
        for split in ORDER
        if (x := arrays.get(f"x_{split}")) is not None
    }
    return Found(kind, splits, notes=_layout_note(splits["train"][0], options.shape))


def _check_names(path: Path, names: Sequence[str]) -> None:
    allowed = [f"{letter}_{split}" for split in ORDER for letter in "xy"]
    optional = {"x_holdout", "y_holdout"}
    missing = set(allowed) - set(names)
    if set(names) - set(allowed) or (missing and missing != optional):
        raise DataError(
            f"source {path}: got arrays {listed(names)}, allowed {', '.join(allowed)}, all but the"
            " holdout's needed"
        )


def _inputs(where: str, inputs: Array, kind: Kind, shape: Sequence[int] | None) -> Array:
    if kind == "tokens" and inputs.ndim > 2:
        raise DataError(
            f"{where}: got integers {list(inputs.shape)} {inputs.dtype}, allowed token ids [N, T],"
            " or images as uint8 from 0 to 255; scale and convert them"
        )
    if inputs.ndim == 2 and (shape is not None or kind == "image"):
        inputs = reshaped(where, inputs, shape)
    made = shaped(where, inputs, kind, shape)
    if kind == "float" and made.ndim == 4 and shape is not None:
        _, height, width, channels = made.shape
        if tuple(shape) == (channels, height, width):
            made = np.moveaxis(made, 3, 1)
    if shape is not None and sorted(shape) != sorted(made.shape[1:]):
        raise DataError(f"{where}: got inputs {list(inputs.shape[1:])}, --shape says {list(shape)}")
    return made


def _layout_note(inputs: Array, shape: Sequence[int] | None) -> list[str]:
    """A note on floats that look like images whose channels are last."""
    if inputs.dtype.kind != "f" or inputs.ndim != 4 or shape is not None:
        return []
    height, width, channels = inputs.shape[1:]
    if channels > MOST_CHANNELS or height <= MOST_CHANNELS:
        return []
    return [
        f"floats {[height, width, channels]} are stored as they are; if these are images, whose"
        f" channels a convolution takes first, give --shape {channels},{height},{width}"
    ]


def kind_of(inputs: Array) -> Kind:
    """What inputs of this element type are. Raises DataError for what are no numbers."""
    if inputs.dtype == object:
        return "image"
    if inputs.dtype.kind not in "iuf":
        raise DataError(f"inputs: got elements of type {inputs.dtype}, allowed integers or floats")
    if inputs.dtype == np.uint8:
        return "image"
    return "tokens" if inputs.dtype.kind in "iu" else "float"


def shaped(where: str, inputs: Array, kind: Kind, shape: Sequence[int] | None = None) -> Array:
    """Images as [N, C, H, W]; numbers as the type kept on disk. Others pass, to be refused."""
    if kind == "image":
        return channels_first(where, inputs, shape)
    if kind_of(inputs) != kind:
        return inputs
    if kind == "tokens":
        return inputs.astype(np.int64, copy=False)
    return as_float32(inputs, lambda row: f"{where}: row {row}")


def as_float32(inputs: Array, place: Callable[[int], str]) -> Array:
    """Floats [R, ...] as they are stored. ``place`` names a row. Raises DataError for what is not
    finite then."""
    with np.errstate(over="ignore"):  # becomes infinite
        stored = inputs.astype(np.float32, copy=False)
    finite = np.isfinite(stored).reshape(len(stored), -1)
    if not finite.all():
        row = int(np.argmin(finite.all(axis=1)))
        raise not_stored(place(row), float(inputs[row].reshape(-1)[np.argmin(finite[row])]))
    return stored


def not_stored(where: str, value: float) -> DataError:
    """The error for a number that is not finite, or not as float32."""
    if math.isfinite(value):
        return DataError(
            f"{where}: got {value:g}, allowed numbers up to 3.4e38, the greatest of float32, in"
            " which numbers are stored; divide them by a constant"
        )
    return DataError(
        f"{where}: got {value:g}, allowed finite numbers; fill it or leave the row out"
    )


def channels_first(where: str, images: Array, shape: Sequence[int] | None = None) -> Array:
    """Images [N, C, H, W] of grey ones [N, H, W], of [N, C, H, W], or of [N, H, W, C].

    C is the end of 1 to 4, the smaller one if both are. Where that does not decide, as for
    [N, 28, 28, 28] or [N, 3, 32, 3], ``shape`` [C, H, W] does. Raises DataError without it.
    """
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        return images
    _, first, middle, last = images.shape
    moved = np.moveaxis(images, 3, 1)
    if first != last and min(first, last) <= MOST_CHANNELS:
        return images if first < last else moved
    for reading in (images, moved):
        if shape is not None and tuple(shape) == reading.shape[1:]:
            return reading
    raise DataError(
        f"{where}: got images {[first, middle, last]}, which may be {first} channels of {middle} x"
        f" {last} or {last} channels of {first} x {middle}; give --shape {first},{middle},{last} or"
        f" --shape {last},{first},{middle}"
    )


def reshaped(where: str, rows: Array, shape: Sequence[int] | None) -> Array:
    """Flat inputs [N, D] as [N, *shape]. Raises DataError for other sizes, and for bytes without a
    shape."""
    count, size = rows.shape
    if shape is None and rows.dtype == np.uint8:
        raise DataError(
            f"{where}: got bytes without a shape; give --shape, as in 3,32,32, or --encoding png or"
            " jpeg if they are files of images"
        )
    if shape is not None and math.prod(shape) != size:
        raise DataError(
            f"{where}: got {size} values an input, allowed {math.prod(shape)} by --shape"
            f" {','.join(map(str, shape))}"
        )
    return rows.reshape(count, *(shape or (size,)))
