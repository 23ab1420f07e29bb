"""Images on their way into a data set: encoded as JPEG or PNG, or decoded from a source's files."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image

from rhoselect.data.images import CHANNELS, MODES, Images, pixels_of
from rhoselect.data.manifest import Encoding
from rhoselect.errors import DataError
from rhoselect.importing import one_line

JPEG_QUALITY = 95
DEEP_MODE = "I"  # with which Pillow's names of grey with more than 8 bits begin
DEEP = "grey pictures of 16 bits, of which the upper 8 are kept"
DEEPEST = "greatest value in those pictures (of 65535)"
TURNED = "pictures turned as their EXIF orientation says"
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The turn that makes a picture of an EXIF orientation upright."""


@contextmanager
def bombs_refused() -> Iterator[None]:
    """Refuse images of more than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels, which Pillow would decode
    with a warning. Not thread-safe: the warning filters belong to the process."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", ".*orrupt EXIF data")  # the pixels may be whole
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


def decode_rgb(content: bytes, side: int | None, where: str, counts: Counter[str]) -> Images:
    """The image [3, H, W] uint8 in a JPEG or PNG file, as RGB, upright, 8 bits a channel; resized
    to ``side`` x ``side`` if ``side`` is given. What had to be changed is added to ``counts``.

    Raises DataError, which begins with ``where``, for bytes that are no whole image.
    """
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG", "PNG"]) as file:
            colours = _plain(file, counts).convert("RGB")
            if side is not None:
                colours = colours.resize((side, side), Image.Resampling.BILINEAR)
            return pixels_of(colours)
    except Exception as error:  # broken bytes break decoders in many ways
        raise _broken(where, "JPEG or PNG", error) from None


def kept(content: bytes, encoding: Encoding, where: str, counts: Counter[str]) -> bytes:
    """An image file as it is stored: as it came, unless it has to be turned upright or to lose the
    lower bits of a grey picture of 16, since readers do neither. Such a file is made anew, which is
    added to ``counts``.

    Raises DataError, which begins with ``where``, for bytes that are no file of ``encoding``.
    """
    try:
        with Image.open(io.BytesIO(content), formats=[encoding.upper()]) as file:
            if not (file.mode.startswith(DEEP_MODE) or _orientation(file) in UPRIGHT):
                return content
            plain = _plain(file, counts)
            return encode(pixels_of(plain), encoding) if plain.mode in CHANNELS else content
    except Exception as error:  # broken bytes break decoders in many ways
        raise _broken(where, encoding, error) from None


def _plain(file: Image.Image, counts: Counter[str]) -> Image.Image:
    """The picture, upright and with 8 bits a channel: the upper ones, as Pillow takes of coloured
    pictures of 16. (Its conversion of grey ones would make 255 of all values beyond.)"""
    turn = UPRIGHT.get(_orientation(file))
    picture = file
    if file.mode.startswith(DEEP_MODE):
        values = np.asarray(file)
        counts[DEEP] += 1
        counts[DEEPEST] = max(counts[DEEPEST], int(values.max()))
        picture = Image.fromarray((values >> 8).astype(np.uint8))
    if turn is not None:
        counts[TURNED] += 1
        picture = picture.transpose(turn)
    return picture


def _orientation(file: Image.Image) -> int:
    """The EXIF orientation of a picture, 1 (upright) to 8; 1 where it has none that is readable."""
    try:
        return int(file.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF breaks its reader in many ways, and the pixels may be whole
        return 1


def _broken(where: str, encoding: str, error: Exception) -> DataError:
    return DataError(
        f"{where}: got bytes that are no whole {encoding} image ({one_line(error)}), allowed one;"
        " mend the source"
    )
