"""Encoded images: stored as files, decoded when read, refused when they are not what they say."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_helpers import CPU, entries, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rhoselect.compute import threads
from rhoselect.data import ArrowDataset
from rhoselect.data.images import decode
from rhoselect.errors import DataError
from rhoselect.importers import write_dataset
from rhoselect.sources.images import encode
from support import CLASSES, made, patches, rhoctl


def splits(channels: int = 3, sizes: tuple[int, int] = (30, 10)) -> dict[str, Any]:
    random = np.random.default_rng(channels)
    return {
        name: (random.integers(0, 256, (n, channels, 6, 9), np.uint8), np.arange(n) % 5)
        for name, n in zip(("train", "test"), sizes, strict=True)
    }


def file_of(image: np.ndarray, encoding: str) -> bytes:
    """What another program would write: [C, H, W] to the bytes of a file."""
    file = io.BytesIO()
    pixels = image[0] if len(image) == 1 else np.moveaxis(image, 0, 2)
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, encoding)
    return file.getvalue()


@settings(deadline=None, max_examples=30)
@given(
    channels=st.sampled_from([1, 3, 4]),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_png_comes_back_bit_by_bit(channels: int, height: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (channels, height, width), np.uint8)
    assert np.array_equal(decode(encode(image, "png"), "png", image.shape, "here"), image)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shard_rows", [None, 7])
def test_a_png_data_set_reads_as_the_raw_one(
    tmp_path: Path, channels: int, shard_rows: int | None
) -> None:
    raw = write_dataset(tmp_path / "raw", "image", splits(channels), label_noise=0.3)
    png = write_dataset(
        tmp_path / "png",
        "image",
        splits(channels),
        label_noise=0.3,
        encoding="png",
        shard_rows=shard_rows,
    )
    assert png.fingerprint != raw.fingerprint
    assert (png.mean, png.std) == (raw.mean, raw.std)
    one, other = (ArrowDataset.open(tmp_path / name) for name in ("raw", "png"))
    other.verify()
    for split in ("train", "test"):
        indices = np.random.default_rng(0).permutation(one.split(split).indices)
        expected, got = (data.split(split).read(indices, CPU) for data in (one, other))
        assert torch.equal(got.inputs, expected.inputs)
        assert torch.equal(got.labels, expected.labels)
    assert other.split("train").read(np.array([], np.int64), CPU).inputs.shape == (
        0,
        channels,
        6,
        9,
    )


def test_the_fingerprint_is_of_the_stored_bytes_however_cut(tmp_path: Path) -> None:
    made = [
        write_dataset(tmp_path / str(rows), "image", splits(), encoding="png", shard_rows=rows)
        for rows in (1, 7, 100)
    ]
    assert len({manifest.fingerprint for manifest in made}) == 1
    jpeg = write_dataset(tmp_path / "jpeg", "image", splits(), encoding="jpeg")
    assert jpeg.fingerprint != made[0].fingerprint


def test_jpeg_statistics_are_those_of_what_is_read(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", "image", splits(), encoding="jpeg")
    points = ArrowDataset.open(tmp_path / "set").split("train")
    inputs = points.read(points.indices, CPU).inputs
    assert torch.allclose(inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(inputs.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_parquet_of_image_files_keeps_their_bytes(tmp_path: Path, encoding: str) -> None:
    source = tmp_path / "tables"
    source.mkdir()
    files = {}
    for name, (images, labels) in splits().items():
        files[name] = [file_of(image, encoding) for image in images]
        pq.write_table(
            pa.table({"inputs": files[name], "label": labels}), source / f"{name}.parquet"
        )
    shown = made("data", "import", "parquet", source, tmp_path / "set", "--encoding", encoding).out
    assert f"image [3, 6, 9], {encoding}" in shown
    dataset = ArrowDataset.open(tmp_path / "set")
    mean, std = (
        torch.tensor(v).reshape(-1, 1, 1) for v in (dataset.manifest.mean, dataset.manifest.std)
    )
    inputs = dataset.split("train").read(np.arange(30), CPU).inputs
    for got, content in zip(inputs, files["train"], strict=True):
        pixels = np.moveaxis(np.asarray(Image.open(io.BytesIO(content))), 2, 0).copy()
        assert torch.equal(got, (torch.from_numpy(pixels).float() / 255 - mean) / std)


def test_a_run_on_png_is_the_run_on_raw_images(tiny_config: Path, tmp_path: Path) -> None:
    hashes = []
    for encoding in (None, "png"):
        path = tmp_path / str(encoding)
        write_dataset(path, "image", patches(), CLASSES, label_noise=0.1, encoding=encoding)
        sets = ("--set", f"data.path={path}", "--set", "selection.function=loss")
        run = tmp_path / f"run-{encoding}"
        made("train", tiny_config, "--run-dir", run, "--workers", "0", *sets)
        summary = json.loads((run / "summary.json").read_text())
        hashes.append((summary["selected_sha256"], summary["weights_sha256"]))
    assert hashes[0] == hashes[1]


GOOD = file_of(splits()["train"][0][0], "png")
WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no whole png image"),
    "no image": (b"GIF89a and so on", "no whole png image"),
    "truncated": (GOOD[:-30], "no whole png image"),
    "jpeg in a png column": (file_of(splits()["train"][0][0], "jpeg"), "no whole png image"),
    "other size": (file_of(np.zeros((3, 9, 6), np.uint8), "png"), r"an image \[3, 9, 6\], allowed"),
    "grey": (file_of(np.zeros((1, 6, 9), np.uint8), "png"), r"an image \[1, 6, 9\], allowed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_bad_image_is_refused_with_its_row(tmp_path: Path, name: str) -> None:
    content, pattern = WRONG[name]
    blobs = np.empty(3, object)
    for split in ("train", "test"):
        blobs[:] = [GOOD] * 3
        made_of = {s: (blobs.copy(), np.arange(3)) for s in ("train", "test")}
        made_of[split][0][2] = content
        with refused(f"{split}: row 2: got .*{pattern}", DataError):
            write_dataset(tmp_path / "set", "image", made_of, encoding="png")
    assert entries(tmp_path) == []


def put(folder: Path, number: int, images: dict[int, bytes]) -> None:
    """Images into rows of a shard: by another program, whose manifest agrees."""
    path = folder / f"{number:05d}.arrow"
    with pa.ipc.open_file(path) as reader:
        table = reader.read_all()
    inputs = table["inputs"].to_pylist()
    for row, content in images.items():
        inputs[row] = content
    table = table.set_column(0, table.schema.field(0), pa.array(inputs, pa.large_binary()))
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][number]["bytes"] = path.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", WRONG)
def test_a_bad_image_on_disk_is_told_with_its_index(tmp_path: Path, name: str) -> None:
    content, pattern = WRONG[name]
    write_dataset(tmp_path / "set", "image", splits(), encoding="png", shard_rows=20)
    put(tmp_path / "set", 1, {4: content})
    points = ArrowDataset.open(tmp_path / "set").split("train")
    points.read(np.arange(24), CPU)
    with refused(f"point 24: got .*{pattern}", DataError):
        points.read(np.arange(30), CPU)


@pytest.mark.parametrize("count", [1, 4])
def test_the_first_of_several_bad_images_is_told(tmp_path: Path, count: int) -> None:
    write_dataset(tmp_path / "set", "image", splits(), encoding="png")
    put(tmp_path / "set", 0, {7: b"", 8: b"", 20: b""})
    points = ArrowDataset.open(tmp_path / "set").split("train")
    with threads(count), refused("point 7: got", DataError):
        points.read(np.arange(30), CPU)


def test_images_that_are_kept_are_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a trainer that scores a window and then trains on points of it. By several threads."""
    write_dataset(tmp_path / "set", "image", splits(), encoding="png", shard_rows=20)
    plain, keeping = (ArrowDataset.open(tmp_path / "set").split("train") for _ in range(2))
    keeping.keep(12)
    windows = [[3, 25, 8, 1], [3, 8], [9, 11, 10, 12, 13, 14, 15, 16], [25, 16, 9], [0, 1, 2]]
    expected = [plain.read(np.array(window), CPU).inputs for window in windows]
    decoded = list[int]()

    def counted(content: memoryview, encoding: Any, shape: Any, where: str) -> Any:
        decoded.append(int(where.rpartition(" ")[2]))
        return decode(content, encoding, shape, where)

    monkeypatch.setattr("rhoselect.data.decoding.decode", counted)
    with threads(3):
        found = [keeping.read(np.array(window), CPU).inputs for window in windows]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert sorted(decoded) == [0, 1, 2, 3, 8, *range(9, 17), 25]


def test_what_cannot_be_encoded_is_refused(tmp_path: Path) -> None:
    two = {s: (np.zeros((3, 2, 4, 4), np.uint8), np.arange(3)) for s in ("train", "test")}
    with refused("encoding png: got images of 2 channels, allowed 1, 3 or 4", DataError):
        write_dataset(tmp_path / "set", "image", two, encoding="png")
    with refused("encoding jpeg: got images of 4 channels, allowed 1 or 3", DataError):
        write_dataset(tmp_path / "set", "image", splits(4), encoding="jpeg")
    floats = {s: (np.ones((3, 2), np.float32), np.arange(3)) for s in ("train", "test")}
    with refused("encoding png: got inputs of kind float, allowed images", DataError):
        write_dataset(tmp_path / "set", "float", floats, encoding="png")
    blobs = np.empty(3, object)
    blobs[:] = [GOOD] * 3
    bare = {s: (blobs, np.arange(3)) for s in ("train", "test")}
    with refused("train: got bytes without an encoding", DataError):
        write_dataset(tmp_path / "set", "image", bare)
    result = rhoctl("data", "import", "idx", tmp_path, tmp_path / "set", "--encoding", "webp")
    assert result.code == 2
    assert "encoding: got 'webp', allowed one of jpeg, png" in result.err
    assert entries(tmp_path) == []
