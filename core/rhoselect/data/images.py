"""JPEG and PNG bytes to images. Pillow is used here and in ``sources.images`` only.

A decoded image depends on its bytes and, for JPEG, on the version of the decoder: a run's bits are
the same wherever the same Pillow is installed.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from rhoselect.data.manifest import Encoding
from rhoselect.errors import DataError
from rhoselect.importing import one_line

Images = npt.NDArray[np.uint8]
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
CHANNELS = {mode: channels for channels, mode in MODES.items()}


def pixels_of(picture: Image.Image) -> Images:
    """The pixels [C, H, W] of a picture of one of ``MODES``."""
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


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
                return pixels_of(picture)
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


def thumbnail(image: Images, side: int) -> bytes:
    """A PNG of an image [1, 3 or 4, H, W], at most ``side`` pixels wide and high."""
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
