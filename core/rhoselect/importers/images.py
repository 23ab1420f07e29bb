"""Images on their way into a data set: encoded as JPEG or PNG, or decoded from a source's files."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from rhoselect.data.images import MODES, Images
from rhoselect.data.manifest import Encoding
from rhoselect.errors import DataError
from rhoselect.importing import one_line

JPEG_QUALITY = 95


@contextmanager
def bombs_refused() -> Iterator[None]:
    """Refuse images of more than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels, which Pillow would decode
    with a warning. Not thread-safe: the warning filters belong to the process."""
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


def decode_rgb(content: bytes, side: int | None, where: str) -> Images:
    """The image [3, H, W] uint8 in a JPEG or PNG file, as RGB; resized to ``side`` x ``side``
    if ``side`` is given.

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
