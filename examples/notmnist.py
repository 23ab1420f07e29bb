"""Letters A to J from Debian's fonts, as notMNIST was made from fonts of the web (notmnist.toml).

    make data-notmnist
    rhoctl train examples/notmnist.toml --workers 2

Train and holdout have what the fonts draw, also if that is a symbol, a letter of another script or
an empty box: wrong labels by nature. The test split has only fonts that say of themselves that they
have these letters and are for Latin text. Fonts of one package are in one split.
"""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt
from examples.debian_lists import Lists, share, write_origin
from fontTools.ttLib import TTFont, TTLibError
from PIL import Image, ImageDraw, ImageFont

from rhoselect.importers import write_dataset

LETTERS = "ABCDEFGHIJ"
SIDE, DRAWN, INK = 28, 96, 22  # pixels: of an image, of a letter as it is drawn, and in the image
LARGEST_BYTES = 1_000_000  # of a package: larger ones have thousands of other letters
LATIN_TEXT, UNKNOWN = 2, 0  # kinds of families in PANOSE


def main() -> None:
    lists = Lists(Path("data/debian-lists"))
    lists.update()
    sizes = {
        record["Package"]: int(record["Size"])
        for record in lists.records("Packages")
        if record["Package"].startswith("fonts-")
    }
    names = sorted(name for name, size in sizes.items() if size <= LARGEST_BYTES)
    splits: dict[str, list[tuple[npt.NDArray[np.uint8], int]]] = {}
    used = {}
    for package in lists.download(names, Path("data/notmnist-fonts")):
        name, release, _ = package.name.split("_")
        used[name] = release
        part = share(name, 8)
        split = "test" if part == 0 else "holdout" if part < 4 else "train"
        for font in unpacked(package):
            if split != "test" or is_latin_text(font):
                splits.setdefault(split, []).extend(letters(font))
    arrays = {
        split: (np.stack([image for image, _ in found])[:, None], np.array([n for _, n in found]))
        for split, found in splits.items()
    }
    made = write_dataset(
        "data/notmnist", "image", arrays, source="Debian's fonts", class_names=list(LETTERS)
    )
    write_origin(
        Path("data/notmnist-origin.json"),
        packages=used,
        fingerprint=made.fingerprint,
        points={split: len(labels) for split, (_, labels) in arrays.items()},
        drawn_with={"pillow": version("pillow"), "fonttools": version("fonttools")},
    )


def unpacked(package: Path) -> list[Path]:
    """The font files of a package."""
    folder = package.with_suffix("")
    if not folder.exists():
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    found = (path for path in folder.rglob("*") if path.suffix.lower() in (".ttf", ".otf"))
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def is_latin_text(path: Path) -> bool:
    """Whether a font says that it has all letters and is for Latin text."""
    try:
        font = TTFont(path, lazy=True)
        has = font.getBestCmap() or {}
        kind = font["OS/2"].panose.bFamilyType
    except (TTLibError, KeyError, AttributeError, AssertionError):
        return False
    return kind in (LATIN_TEXT, UNKNOWN) and all(ord(letter) in has for letter in LETTERS)


def letters(path: Path) -> list[tuple[npt.NDArray[np.uint8], int]]:
    """What a font draws for each letter [28, 28], with its class; without what it leaves empty."""
    try:
        font = ImageFont.truetype(str(path), DRAWN)
    except OSError:
        return []
    found = []
    for number, letter in enumerate(LETTERS):
        canvas = Image.new("L", (3 * DRAWN, 3 * DRAWN))
        try:
            ImageDraw.Draw(canvas).text((DRAWN, DRAWN), letter, fill=255, font=font)
        except OSError:
            continue
        if (box := canvas.getbbox()) is not None:
            found.append((centred(canvas.crop(box)), number))
    return found


def centred(drawn: Image.Image) -> npt.NDArray[np.uint8]:
    """A letter, scaled to 22 pixels on its longer side, in the middle of an image [28, 28]."""
    scale = INK / max(drawn.size)
    size = tuple(max(1, round(scale * side)) for side in drawn.size)
    image = Image.new("L", (SIDE, SIDE))
    image.paste(drawn.resize(size), ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return np.asarray(image)


if __name__ == "__main__":
    main()
