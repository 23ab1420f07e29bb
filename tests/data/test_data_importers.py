"""Importers, on small fixtures in the published layouts; Fashion-MNIST itself where it is found."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import entries, idx_bytes, raw_inputs, refused

from rhoselect.cli.commands import data as command
from rhoselect.data import ArrowDataset
from rhoselect.errors import DataError
from rhoselect.importers import KINDS, import_dataset
from rhoselect.sources import fashion_mnist
from support import made

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (12, 5, 4), np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 3
FILES = {
    "train-images-idx3-ubyte": IMAGES,
    "train-labels-idx1-ubyte": LABELS,
    "t10k-images-idx3-ubyte": IMAGES[:6],
    "t10k-labels-idx1-ubyte": LABELS[:6],
}


def test_the_help_names_every_kind() -> None:
    assert command.KINDS == KINDS


@pytest.fixture(params=["", ".gz"])
def idx_folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path / "idx"
    folder.mkdir()
    for name, array in FILES.items():
        raw = idx_bytes(array)
        (folder / (name + request.param)).write_bytes(gzip.compress(raw) if request.param else raw)
    return folder


def test_idx(idx_folder: Path, tmp_path: Path) -> None:
    dataset = import_dataset("idx", idx_folder, tmp_path / "set")
    assert (dataset.input_shape, dataset.classes) == ((1, 5, 4), 3)
    assert np.array_equal(raw_inputs(dataset), IMAGES[:, None])
    assert np.array_equal(raw_inputs(dataset, "test"), IMAGES[:6, None])
    assert dataset.split("test").labels(np.arange(12, 18)).tolist() == LABELS[:6].tolist()


@pytest.mark.parametrize(
    ("name", "content", "pattern"),
    [
        ("train-images-idx3-ubyte", idx_bytes(IMAGES)[:-1], "got 255 bytes, allowed 256"),
        ("train-images-idx3-ubyte", idx_bytes(IMAGES) + b"0", "got 257 bytes, allowed 256"),
        ("train-images-idx3-ubyte", idx_bytes(IMAGES)[:9], "got 9 bytes"),
        ("train-images-idx3-ubyte", b"", "magic number"),
        ("train-images-idx3-ubyte", idx_bytes(LABELS), "magic number 00000801"),
        ("train-labels-idx1-ubyte", b"\x00\x00\x0d\x01" + bytes(20), "magic number 00000d01"),
        ("train-labels-idx1-ubyte", idx_bytes(LABELS[1:]), "12 inputs and 11 labels"),
        ("t10k-images-idx3-ubyte", idx_bytes(IMAGES[:, 1:]), "12 inputs and 6 labels"),
        ("t10k-images-idx3-ubyte", idx_bytes(IMAGES[:6, 1:]), r"test: got inputs of shape \[1, 4"),
        ("t10k-labels-idx1-ubyte", None, "neither t10k-labels-idx1-ubyte nor"),
    ],
)
def test_bad_idx_is_refused(tmp_path: Path, name: str, content: bytes | None, pattern: str) -> None:
    source = tmp_path / "idx"
    source.mkdir()
    for good, array in FILES.items():
        (source / good).write_bytes(idx_bytes(array))
    if content is None:
        (source / name).unlink()
    else:
        (source / name).write_bytes(content)
    with refused(pattern, DataError):
        import_dataset("idx", source, tmp_path / "set")
    assert entries(tmp_path) == ["idx"]


BAD_GZIP = {  # by name: content is no id, as gzip writes the time into it
    "empty": b"",
    "not gzip": b"not gzip",
    "truncated": gzip.compress(idx_bytes(LABELS))[:-9],
}


@pytest.mark.parametrize("name", BAD_GZIP)
def test_bad_gzip_is_refused(tmp_path: Path, name: str) -> None:
    for good, array in FILES.items():
        (tmp_path / good).write_bytes(idx_bytes(array))
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(BAD_GZIP[name])
    with refused("cannot be read|magic", DataError):
        import_dataset("idx", tmp_path, tmp_path / "set")


def npz(path: Path, x: Any, y: Any = LABELS, **more: Any) -> Path:
    arrays = {"x_train": x, "y_train": y, "x_test": x, "y_test": y} | more
    np.savez(path / "a.npz", **{name: v for name, v in arrays.items() if v is not None})
    return path / "a.npz"


COLOUR = RANDOM.integers(0, 256, (12, 5, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("x", "kind", "expected"),
    [
        (IMAGES, "image", IMAGES[:, None]),
        (COLOUR, "image", COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR.transpose(0, 3, 1, 2), "image", COLOUR.transpose(0, 3, 1, 2)),
        (IMAGES[:, None], "image", IMAGES[:, None]),
        (IMAGES / 3, "float", (IMAGES / 3).astype(np.float32)),
        (IMAGES[:, 0].astype(np.int32), "tokens", IMAGES[:, 0].astype(np.int64)),
    ],
)
def test_numpy(tmp_path: Path, x: np.ndarray, kind: str, expected: np.ndarray) -> None:
    source = npz(tmp_path, x, x_holdout=x[:4], y_holdout=LABELS[:4])
    dataset = import_dataset("numpy", source, tmp_path / "set")
    assert dataset.manifest.inputs.kind == kind
    assert dataset.input_shape == expected.shape[1:]
    assert np.array_equal(raw_inputs(dataset), expected)
    assert np.array_equal(raw_inputs(dataset, "holdout"), expected[:4])


@pytest.mark.parametrize(
    ("stored", "shape", "order"),
    [
        ((28, 20, 1), None, (2, 0, 1)),
        ((28, 20, 4), None, (2, 0, 1)),
        ((28, 20, 2), None, (2, 0, 1)),
        ((3, 28, 4), None, (0, 1, 2)),
        ((3, 28, 28), (3, 28, 28), (0, 1, 2)),
        ((28, 28, 3), (28, 28, 3), (2, 0, 1)),
        ((3, 8, 3), (3, 8, 3), (0, 1, 2)),
        ((3, 8, 3), (3, 3, 8), (2, 0, 1)),
        ((10, 8, 9), (10, 8, 9), (0, 1, 2)),
        ((10, 8, 9), (9, 10, 8), (2, 0, 1)),
    ],
)
def test_channels_first_and_last(tmp_path: Path, stored: Any, shape: Any, order: Any) -> None:
    """``order``: where the axes [C, H, W] are in what is stored."""
    x = RANDOM.integers(0, 256, (4, *stored), np.uint8)
    source = npz(tmp_path, x, LABELS[:4])
    dataset = import_dataset("numpy", source, tmp_path / "set", shape=shape)
    expected = x.transpose(0, *(1 + axis for axis in order))
    assert dataset.input_shape == expected.shape[1:]
    assert np.array_equal(raw_inputs(dataset), expected)


def test_flat_inputs_get_a_shape(tmp_path: Path) -> None:
    flat = npz(tmp_path, IMAGES.reshape(12, 20))
    made("data", "import", "numpy", flat, tmp_path / "bytes", "--shape", "1,5,4")
    assert np.array_equal(raw_inputs(ArrowDataset.open(tmp_path / "bytes")), IMAGES[:, None])
    with refused("x_train: got 20 values an input, allowed 24 by --shape 1,6,4", DataError):
        import_dataset("numpy", flat, tmp_path / "set", shape=(1, 6, 4))
    with refused(r"x_train: got inputs \[5, 4\], --shape says \[1, 6, 4\]", DataError):
        import_dataset("numpy", npz(tmp_path, IMAGES), tmp_path / "set", shape=(1, 6, 4))


def test_floats_with_channels_last_are_told(tmp_path: Path) -> None:
    x = RANDOM.random((12, 28, 20, 3)).astype(np.float32)
    source = npz(tmp_path, x)
    dataset = import_dataset("numpy", source, tmp_path / "as-it-is")
    assert np.array_equal(raw_inputs(dataset), x)
    assert "[28, 20, 3] are stored as they are; " in dataset.manifest.notes[0]
    assert "--shape 3,28,20" in dataset.manifest.notes[0]
    moved = import_dataset("numpy", source, tmp_path / "moved", shape=(3, 28, 20))
    assert np.array_equal(raw_inputs(moved), x.transpose(0, 3, 1, 2)) and not moved.manifest.notes
    kept = import_dataset("numpy", source, tmp_path / "kept", shape=(28, 20, 3))
    assert kept.fingerprint == dataset.fingerprint and not kept.manifest.notes


def test_numpy_without_holdout_takes_a_fraction(tmp_path: Path) -> None:
    source = npz(tmp_path, IMAGES)
    dataset = import_dataset("numpy", source, tmp_path / "set", holdout=0.25, label_noise=0.5)
    assert dataset.splits == {"train": (0, 9), "holdout": (9, 12), "test": (12, 24)}


NAN = np.where(IMAGES[:, 0] == IMAGES[2, 0], np.nan, 1.0)


@pytest.mark.parametrize(
    ("arrays", "pattern"),
    [
        ({"x": IMAGES, "x_valid": IMAGES}, "x_valid"),
        ({"x": IMAGES, "x_test": None}, "got arrays x_train, y_train, y_test"),
        ({"x": IMAGES, "x_holdout": IMAGES}, "x_holdout"),
        ({"x": NAN}, "x_train: row 2: got nan, allowed finite numbers"),
        ({"x": np.full((12, 2), 1e300)}, r"row 0: got 1e\+300, allowed numbers up to 3\.4e38"),
        ({"x": IMAGES, "y": LABELS.astype(int) - 1}, "label -1"),
        ({"x": IMAGES, "y": LABELS.astype(np.uint64) + 2**63}, "label -"),
        ({"x": IMAGES[:, 0]}, "x_train: got bytes without a shape; give --shape"),
        ({"x": IMAGES.astype(int)}, r"\[12, 5, 4\] int64, allowed token ids \[N, T\], or images"),
        ({"x": np.zeros((12, 3, 9, 3), np.uint8)}, r"3 channels of 9 x 3 or 3 channels of 3 x 9"),
        ({"x": np.zeros((12, 5, 6, 7), np.uint8)}, r"give --shape 5,6,7 or --shape 7,5,6"),
        ({"x": IMAGES.astype(str)}, "type <U"),
        ({"x": IMAGES, "x_test": IMAGES / 1}, "test: got inputs"),
        ({"x": np.uint8(3)}, "single value"),
        ({"x": np.array([{}] * 12)}, "not a readable .npz"),
    ],
)
def test_bad_numpy_is_refused(tmp_path: Path, arrays: dict[str, Any], pattern: str) -> None:
    source = npz(tmp_path, **arrays)
    with refused(pattern, DataError):
        import_dataset("numpy", source, tmp_path / "set")
    assert entries(tmp_path) == ["a.npz"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and more", b"\x93NUMPY\x01\x00v\x00{"])
def test_files_that_are_no_npz_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with refused("not a readable", DataError):
        import_dataset("numpy", tmp_path / "a.npz", tmp_path / "set")
    np.save(tmp_path / "a.npy", IMAGES)
    with refused("not a readable", DataError):
        import_dataset("numpy", tmp_path / "a.npy", tmp_path / "set")


BYTES = [image.tobytes() for image in IMAGES]
FLOATS = (IMAGES[:, 0] / 7).astype(np.float32)


@pytest.mark.parametrize(
    ("inputs", "shape", "kind", "expected"),
    [
        (pa.array(BYTES, pa.binary(20)), (1, 5, 4), "image", IMAGES[:, None]),
        (pa.array(BYTES), (1, 5, 4), "image", IMAGES[:, None]),
        (pa.array(FLOATS.tolist(), pa.list_(pa.float32())), None, "float", FLOATS),
        (pa.array(FLOATS.tolist(), pa.list_(pa.float32(), 4)), (2, 2), "float", None),
        (pa.array(IMAGES[:, 0].tolist()), None, "tokens", IMAGES[:, 0].astype(np.int64)),
    ],
)
@pytest.mark.parametrize("layout", ["folder", "file"])
def test_parquet(
    tmp_path: Path, inputs: Any, shape: Any, kind: str, expected: Any, layout: str
) -> None:
    table = pa.table({"inputs": inputs, "label": LABELS, "url": ["x"] * 12})
    if layout == "folder":
        source = tmp_path / "tables"
        source.mkdir()
        for name in ("train", "holdout", "test"):
            pq.write_table(table, source / f"{name}.parquet", row_group_size=5)
    else:
        source = tmp_path / "all.parquet"
        parts = [table.append_column("split", [[s] * 12]) for s in ("test", "train", "holdout")]
        pq.write_table(pa.concat_tables(parts), source, row_group_size=5)
    dataset = import_dataset("parquet", source, tmp_path / "set", shape=shape)
    assert dataset.manifest.inputs.kind == kind
    expected = FLOATS.reshape(-1, 2, 2) if expected is None else expected
    for split in ("train", "holdout", "test"):
        assert np.array_equal(raw_inputs(dataset, split), expected)


@pytest.mark.parametrize(
    ("columns", "shape", "pattern"),
    [
        ({"inputs": BYTES}, None, "give --shape"),
        ({"inputs": BYTES}, (1, 4, 4), "got 20 values an input, allowed 16"),
        ({"inputs": [*BYTES[:-1], b"x"]}, (1, 5, 4), "got inputs of 2 lengths"),
        ({"inputs": [[1, 2]] * 11 + [[1]]}, None, "got inputs of 2 lengths"),
        ({"inputs": [[1, None]] * 12}, None, "missing values"),
        ({"inputs": [None, *BYTES[1:]]}, (1, 5, 4), "missing values"),
        ({"inputs": [[[1.0]]] * 12}, None, "inputs of type list<.*allowed strings, images"),
        ({"inputs": [[float("nan")]] * 12}, None, "row 0: got nan"),
        ({"inputs": [[1.0]] * 12, "label": [-1, *range(11)]}, None, "label -1"),
        ({"picture": BYTES}, None, "picture, none of them inputs and label by name"),
    ],
)
def test_bad_parquet_is_refused(tmp_path: Path, columns: Any, shape: Any, pattern: str) -> None:
    source = tmp_path / "tables"
    source.mkdir()
    for name in ("train", "test"):
        pq.write_table(pa.table({"label": LABELS} | columns), source / f"{name}.parquet")
    with refused(pattern, DataError):
        import_dataset("parquet", source, tmp_path / "set", shape=shape)
    assert entries(tmp_path) == ["tables"]


def test_parquet_files_without_splits_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"inputs": [[1.0]], "label": [0]}), file)
    with refused("got rows of no split; allowed a folder of files named train and test", DataError):
        import_dataset("parquet", file, tmp_path / "set")
    pq.write_table(pa.table({"inputs": [[1.0]], "label": [0], "split": ["later"]}), file)
    with refused("got split 'later', allowed train, holdout, valid, .* test in column", DataError):
        import_dataset("parquet", file, tmp_path / "set")
    file.write_bytes(b"PAR1 no more")
    with refused("not a readable Parquet", DataError):
        import_dataset("parquet", file, tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with refused("got no file .parquet, allowed files such as train.parquet", DataError):
        import_dataset("parquet", tmp_path / "empty", tmp_path / "set")


def test_bad_options_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    for kind in ("idx", "numpy", "parquet"):
        with refused("no such", DataError):
            import_dataset(kind, tmp_path / "nowhere", tmp_path / "set")
    with refused("kind: got 'excel', allowed one of fashion-mnist, idx", DataError):
        import_dataset("excel", tmp_path, tmp_path / "set")
    with refused("label noise: got 2", DataError):
        import_dataset("fashion-mnist", "auto", tmp_path / "set", label_noise=2)
    with refused("shape: got", DataError):
        import_dataset("idx", tmp_path, tmp_path / "set", shape=(1, 2))
    (tmp_path / "a").touch()
    with refused("exists", DataError):
        import_dataset("fashion-mnist", "auto", tmp_path)


@pytest.fixture
def fake_fashion(idx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that passes for Fashion-MNIST, which is to be found nowhere else."""
    import hashlib

    sums = {name: hashlib.sha256(idx_bytes(array)).hexdigest() for name, array in FILES.items()}
    monkeypatch.setattr(fashion_mnist, "SHA256", sums)
    monkeypatch.setattr(fashion_mnist, "INSTALLED", "usr/share/no-such-data-set")
    monkeypatch.setattr(fashion_mnist, "PACKAGE", "no-such-package")
    monkeypatch.setattr(fashion_mnist, "ADDRESSES", ("http://127.0.0.1:9",))
    monkeypatch.setenv("PATH", "")
    return idx_folder


def test_fashion_mnist_from_a_folder(fake_fashion: Path, tmp_path: Path) -> None:
    dataset = import_dataset("fashion-mnist", fake_fashion, tmp_path / "set")
    assert dataset.classes == 10
    assert "the folder" in dataset.manifest.source


def test_fashion_mnist_nowhere_lists_what_was_tried(fake_fashion: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    pattern = "tried the folder .*installed Debian package.*by apt-get.*http://127.0.0.1:9: "
    with refused(pattern, DataError):
        import_dataset("fashion-mnist", tmp_path / "empty", tmp_path / "set")
    next(fake_fashion.glob("train-images*")).write_bytes(b"")
    with refused("got sha256|cannot be read", DataError):
        import_dataset("fashion-mnist", fake_fashion, tmp_path / "set")


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def address(idx_folder: Path) -> Iterator[str]:
    """A server on loopback that hands out ``idx_folder``."""
    handler = partial(QuietHandler, directory=str(idx_folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("idx_folder", [".gz"], indirect=True)
def test_fashion_mnist_from_an_address(
    fake_fashion: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "ADDRESSES", ("http://127.0.0.1:9", address))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    dataset = import_dataset("fashion-mnist", "auto", tmp_path / "set")
    assert dataset.manifest.source == f"Fashion-MNIST from {address}"
    (fake_fashion / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(LABELS[:5])))
    with refused(f"{address}: .*got sha256", DataError):
        import_dataset("fashion-mnist", "auto", tmp_path / "other")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> ArrowDataset:
    """Fashion-MNIST itself. CI must find it; a laptop may be off the network."""
    path = tmp_path_factory.mktemp("real") / "set"
    try:
        return import_dataset("fashion-mnist", "auto", path, label_noise=0.1, holdout=0.5)
    except DataError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def test_the_real_fashion_mnist(real: ArrowDataset) -> None:
    real.verify()
    assert real.splits == {"train": (0, 30000), "holdout": (30000, 60000), "test": (60000, 70000)}
    assert (real.input_shape, real.classes) == ((1, 28, 28), 10)
    # Published for the 60,000 training images; half of them comes near.
    assert real.manifest.mean == pytest.approx((0.2860,), abs=2e-3)
    assert real.manifest.std == pytest.approx((0.3530,), abs=2e-3)
    train, test = real.split("train"), real.split("test")
    clean = train.clean_labels(train.indices)
    assert clean is not None
    assert np.mean(train.labels(train.indices) != clean) == pytest.approx(0.1, abs=0.01)
    assert np.bincount(test.labels(test.indices)).tolist() == [1000] * 10
    assert test.labels(test.indices[:5]).tolist() == [9, 2, 1, 1, 6]
