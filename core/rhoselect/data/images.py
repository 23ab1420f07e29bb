"""JPEG and PNG bytes to images and back. Pillow is known here alone.

A decoded image depends on its bytes and, for JPEG, on the version of the decoder: a run's bits are
the same wherever the same Pillow is installed.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from PIL import Image

from rhoselect.data.manifest import Encoding
from rhoselect.errors import DataError
from rhoselect.importing import one_line

Images = npt.NDArray[np.uint8]
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
CHANNELS = {mode: channels for channels, mode in MODES.items()}
JPEG_QUALITY = 95


@contextmanager
def bombs_refused() -> Iterator[None]:
    """Within it an image beyond ``PIL.Image.MAX_IMAGE_PIXELS`` is no image, where Pillow would warn
    and unpack it. Not for threads: the list of warnings' filters is the process's."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def encode(image: Images, encoding: Encoding) -> bytes:
    """The bytes of an image [C, H, W]. JPEG (at quality 95) loses detail, PNG does not.

    Raises DataError for channels that the encoding does not have.
    """
    channels = image.shape[0]
    if channels not in MODES or (encoding == "jpeg" and channels == 4):
        allowed = "1 or 3" if encoding == "jpeg" else "1, 3 or 4"
        raise DataError(
            f"encoding {encoding}: got images of {channels} channels, allowed {allowed}"
        )
    pixels = image[0] if channels == 1 else image.transpose(1, 2, 0)
    file = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.save(file, encoding.upper(), quality=JPEG_QUALITY)
    return file.getvalue()


def decode(
    content: bytes | memoryview, encoding: Encoding, shape: Sequence[int] | None, where: str
) -> Images:
    """The image [C, H, W] uint8 in ``content``.

    Raises DataError, which begins with ``where``, for bytes that are no whole image of that
    encoding and, before any pixel is decoded, for another shape than ``shape``.
    """
    try:
        with Image.open(io.BytesIO(content), formats=[encoding.upper()]) as picture:
            width, height = picture.size
            got = (CHANNELS.get(picture.mode, picture.mode), height, width)
            if isinstance(got[0], int) and (shape is None or got == tuple(shape)):
                pixels = np.asarray(picture)
                return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    except Exception as error:  # broken bytes break decoders in many ways
        raise DataError(
            f"{where}: got bytes that are no whole {encoding} image ({one_line(error)}), allowed"
            " one; mend the source and import it again"
        ) from None
    allowed = f"{list(shape)}" if shape is not None else f"modes {', '.join(CHANNELS)}"
    raise DataError(
        f"{where}: got an image {list(got)}, allowed {allowed}; convert the source and import it"
        " again"
    )


def picture(content: bytes, side: int | None, where: str) -> Images:
    """The image [3, H, W] uint8 in a JPEG or PNG file, as RGB; squeezed to ``side`` x ``side``.

    Raises DataError, which begins with ``where``, for bytes that are no whole image.
    """
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG", "PNG"]) as file:
            colours = file.convert("RGB")
            if side is not None:
                colours = colours.resize((side, side), Image.Resampling.BILINEAR)
            return np.asarray(colours).transpose(2, 0, 1)
    except Exception as error:  # broken bytes break decoders in many ways
        raise DataError(
            f"{where}: got bytes that are no whole JPEG or PNG image ({one_line(error)}), allowed"
            " one; mend the source"
        ) from None
