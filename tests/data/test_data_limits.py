"""Sources that would unpack to more than a machine has, or that reach outside their folder."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from data_helpers import idx_bytes, refused
from PIL import Image

from rhoselect.errors import DataError
from rhoselect.importers import import_dataset
from rhoselect.sources import unpacking, webdataset


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


def test_a_gzipped_file_that_unpacks_to_too_much(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "UNZIPPED_BYTES", 1000)
    content = gzip.compress(idx_bytes(np.zeros((100, 28, 28), np.uint8)))
    (source / "train-images-idx3-ubyte.gz").write_bytes(content)
    with refused("got more than 1000 bytes when unzipped", DataError):
        import_dataset("idx", source, source / "set")


def test_an_archive_of_arrays_that_unpacks_to_too_much(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "FREE_BYTES", 1000)
    np.savez_compressed(source / "x.npz", x_train=np.zeros((1000, 8, 8), np.uint8))
    with refused("x_train.npy: got .* bytes that unpack to .*, allowed 100 times", DataError):
        import_dataset("numpy", source / "x.npz", source / "set")


def test_ambiguous_mnist_that_unpacks_to_too_much(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "FREE_BYTES", 1000)
    samples, labels = np.zeros((1000, 1, 28, 28)), np.zeros((1000, 100), np.int64)
    np.savez_compressed(source / "x.npz", amnist_samples=samples, amnist_labels=labels)
    with refused("amnist_samples.npy: got .* bytes that unpack to .*, allowed 100", DataError):
        import_dataset("ambiguous-mnist", source, source / "set")


def test_arrays_that_nobody_asked_for_are_not_read(source: Path) -> None:
    with zipfile.ZipFile(source / "x.npz", "w") as archive:
        archive.writestr("more.npy", b"not to be looked at")
    with refused("got arrays more, allowed x_train", DataError):
        import_dataset("numpy", source / "x.npz", source / "set")


def test_an_array_whose_header_makes_up_its_size(source: Path) -> None:
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 4), }\n" % 2**45
    with zipfile.ZipFile(source / "x.npz", "w") as archive:
        size = len(header).to_bytes(2, "little")
        for name in ("x_train", "y_train", "x_test", "y_test"):
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + size + header)
    with refused("not a readable .npz archive", DataError):
        import_dataset("numpy", source / "x.npz", source / "set")


def test_a_tar_with_an_endless_header(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "FILE_BYTES", 1 << 15)
    with tarfile.open(source / "train-0.tar.part", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("x" * (1 << 17)), io.BytesIO())
    content = gzip.compress((source / "train-0.tar.part").read_bytes())
    for name in ("train-0.tar", "test-0.tar"):
        (source / name).write_bytes(content)
    with refused("not a readable tar: ReadError: a header of", DataError):
        import_dataset("webdataset", source, source / "set")


def test_a_zipped_tar_that_unpacks_to_too_much(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webdataset, "UNZIPPED_BYTES", 1 << 15)
    for split in ("train", "test"):
        with tarfile.open(source / f"{split}-0.tar", "w:gz") as tar:
            for number in range(20):
                info = tarfile.TarInfo(f"a.{number}.json")
                info.size = 1 << 12
                tar.addfile(info, io.BytesIO(bytes(info.size)))
    with refused("more than 32768 bytes when unzipped, allowed at most that", DataError):
        import_dataset("webdataset", source, source / "set")


@pytest.mark.parametrize("digits", [19, 5000])
def test_a_label_of_many_digits(source: Path, digits: int) -> None:
    for split in ("train", "test"):
        with tarfile.open(source / f"{split}-0.tar", "w") as tar:
            for name, content in (("a.png", b""), ("a.cls", b"9" * digits)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    with refused("got files cls, png and label b'9+', allowed", DataError):
        import_dataset("webdataset", source, source / "set")


def test_a_table_whose_offsets_lead_out_of_it(source: Path) -> None:
    (source / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    for split in ("train", "test"):
        folder = source / split
        folder.mkdir()
        offsets = np.array([0, 2**30, 2], np.int32)  # which only a full check sees
        texts = pa.Array.from_buffers(
            pa.string(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(b"ab")]
        )
        table = pa.table({"text": texts, "label": pa.array([0, 1])})
        with pa.ipc.new_stream(str(folder / "data.arrow"), table.schema) as writer:
            writer.write_table(table)
        (folder / "state.json").write_text(
            json.dumps({"_data_files": [{"filename": "data.arrow"}]})
        )
        (folder / "dataset_info.json").write_text(json.dumps({"features": [1]}))
    with refused("not a split on disk", DataError):
        import_dataset("hugging-face", source, source / "set")


def test_an_image_of_too_many_pixels(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "test"):
        (source / split / "a").mkdir(parents=True)
        Image.new("L", (40, 40)).save(source / split / "a" / "0.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # 1600 would only be warned of
    with refused("no whole JPEG or PNG image .*exceeds limit", DataError):
        import_dataset("image-folder", source, source / "set")


@pytest.mark.parametrize("split", ["../other", "/etc", "", 3, None])
def test_a_split_outside_its_folder(source: Path, split: object) -> None:
    (source / "dataset_dict.json").write_text(json.dumps({"splits": ["train", split]}))
    with refused("allowed a DatasetDict's list of names", DataError):
        import_dataset("hugging-face", source, source / "set")
