"""Pictures as people have them: 16 bits, turned by EXIF, with alpha, a palette or four inks."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import raw_inputs, refused
from PIL import Image

from rhoselect.data import ArrowDataset
from rhoselect.errors import DataError
from rhoselect.importers import import_dataset

RANDOM = np.random.default_rng(0)
DEEP = RANDOM.integers(0, 1 << 16, (5, 7), np.uint16)
COLOUR = np.kron(RANDOM.integers(0, 256, (2, 3, 3)), np.ones((8, 8, 1))).astype(np.uint8)
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
"""How a camera stores a picture [H, W, ...] with each EXIF orientation."""


def file_of(picture: Image.Image, encoding: str = "png", orientation: int | None = None) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    options = {"exif": exif.tobytes()} if orientation is not None else {}
    picture.save(file, encoding, quality=95, subsampling=0, **options)
    return file.getvalue()


def deep_png(rgb: np.ndarray) -> bytes:
    """[H, W, 3] uint16 as a PNG of 16 bits a channel, which Pillow cannot write."""
    height, width = rgb.shape[:2]
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgb)),
        b"IEND": b"",
    }
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def source_of(kind: str, content: bytes, folder: Path, encoding: str = "png") -> Path:
    """A source of ``kind`` with the same file twice in each split, or once in a tar."""
    folder.mkdir()
    for split in ("train", "test"):
        if kind == "image-folder":
            for name in "ab":
                (folder / split / name).mkdir(parents=True)
                (folder / split / name / f"0.{encoding}").write_bytes(content)
        elif kind == "webdataset":
            with tarfile.open(folder / f"{split}-0.tar", "w") as tar:
                for name, data in ((f"0.{encoding}", content), ("0.cls", b"0")):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        else:
            image: Any = {"bytes": content, "path": None} if kind == "hub" else content
            table = pa.table({"image": [image] * 2, "label": [0, 1]})
            pq.write_table(table, folder / f"{split}.parquet")
    return folder


def imported(
    content: bytes, folder: Path, kind: str = "image-folder", **options: Any
) -> ArrowDataset:
    """Of a source with ``content`` alone."""
    folder.mkdir(exist_ok=True)
    encoding = "jpeg" if content.startswith(b"\xff\xd8") else "png"
    source = source_of(kind, content, folder / "src", encoding)
    kind = "parquet" if kind == "hub" else kind
    return import_dataset(kind, source, folder / "set", **options)


@pytest.mark.parametrize("kind", ["image-folder", "webdataset", "parquet", "hub"])
@pytest.mark.parametrize("encoding", [None, "png"])
def test_grey_of_16_bits_keeps_its_upper_8(tmp_path: Path, kind: str, encoding: str) -> None:
    dataset = imported(file_of(Image.fromarray(DEEP)), tmp_path, kind, encoding=encoding)
    pixels = raw_inputs(dataset)[0]
    assert pixels.shape[0] == (1 if encoding else 3)
    assert (pixels == DEEP // 256).all()
    count = 2 if kind == "webdataset" else 4
    assert dataset.manifest.notes == (
        f"grey pictures of 16 bits, of which the upper 8 are kept: {count}",
        f"greatest value in those pictures (of 65535): {DEEP.max()}",
    )


def test_grey_of_16_bits_resized(tmp_path: Path) -> None:
    flat = np.full((9, 9), 40000, np.uint16)
    assert (raw_inputs(imported(file_of(Image.fromarray(flat)), tmp_path, resize=4)) == 156).all()


def test_colours_of_16_bits_follow_the_same_rule(tmp_path: Path) -> None:
    rgb = RANDOM.integers(0, 1 << 16, (3, 4, 3), np.uint16)
    pixels = raw_inputs(imported(deep_png(rgb), tmp_path))[0]
    assert (pixels == rgb.transpose(2, 0, 1) // 256).all()


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("encoding", [None, "jpeg", "png"])
def test_pictures_come_upright(tmp_path: Path, orientation: int, encoding: str) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](COLOUR)))
    content = file_of(stored, encoding or "jpeg", orientation)
    dataset = imported(content, tmp_path, encoding=encoding)
    assert dataset.input_shape == (3, 16, 24)
    got = raw_inputs(dataset)[0].astype(int)
    assert np.abs(got - COLOUR.transpose(2, 0, 1)).mean() < 12, "JPEG loses a little"
    said = ("pictures turned as their EXIF orientation says: 4",) if orientation > 1 else ()
    assert dataset.manifest.notes == said


def test_a_file_without_need_of_change_is_kept_as_it_is(tmp_path: Path) -> None:
    content = file_of(Image.fromarray(COLOUR), "jpeg", 1)
    imported(content, tmp_path, encoding="jpeg")
    assert (tmp_path / "set" / "00000.arrow").read_bytes().count(content) == 2


def test_broken_exif_says_nothing(tmp_path: Path) -> None:
    plain = imported(file_of(Image.fromarray(COLOUR), "jpeg"), tmp_path / "plain")
    broken = (b"", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x09")
    for number, exif in enumerate(b"Exif\0\0" + rest for rest in broken):
        file = io.BytesIO()
        Image.fromarray(COLOUR).save(file, "jpeg", quality=95, subsampling=0, exif=exif)
        dataset = imported(file.getvalue(), tmp_path / str(number))
        assert (raw_inputs(dataset) == raw_inputs(plain)).all() and dataset.manifest.notes == ()


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "1"])
def test_other_modes_become_colours(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(COLOUR).convert(mode)
    expected = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    assert (raw_inputs(imported(file_of(picture), tmp_path))[0] == expected).all()


def test_a_file_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    with refused(r"train/a/0.jpeg: got bytes that are no whole png image", DataError):
        imported(file_of(Image.fromarray(COLOUR), "jpeg"), tmp_path, encoding="png")
