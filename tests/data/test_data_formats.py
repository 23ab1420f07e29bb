"""Importers of published formats, on small fixtures written here from the byte layouts."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from data_helpers import CPU, entries, idx_bytes, labels, raw_inputs, refused
from PIL import Image

from rhoselect.errors import DataError
from rhoselect.importers import import_dataset
from rhoselect.sources import ambiguous_mnist, webdataset

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (12, 3, 5, 4), np.uint8)


def picture(image: np.ndarray, encoding: str = "png") -> bytes:
    """[3, H, W] as a file."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(file, encoding)
    return file.getvalue()


def grey(image: np.ndarray) -> bytes:
    """The first channel as a grey PNG."""
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, "png")
    return file.getvalue()


# CIFAR


def cifar(folder: Path, classes: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The binary version, three records a file; what is in it by split."""
    folder.mkdir()
    files = {"train": [f"data_batch_{n}.bin" for n in range(1, 6)], "test": ["test_batch.bin"]}
    if classes == 100:
        files = {"train": ["train.bin"], "test": ["test.bin"]}
    made = {}
    for split, names in files.items():
        images = RANDOM.integers(0, 256, (3 * len(names), 3, 32, 32), np.uint8)
        fine = RANDOM.integers(0, classes, len(images), np.uint8)
        for number, name in enumerate(names):
            content = b""
            for row in range(3 * number, 3 * number + 3):
                content += bytes([7, fine[row]] if classes == 100 else [fine[row]])
                content += images[row].tobytes()
            (folder / name).write_bytes(content)
        made[split] = images, fine
    return made


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar(tmp_path: Path, classes: int) -> None:
    expected = cifar(tmp_path / "cifar", classes)
    dataset = import_dataset(f"cifar-{classes}", tmp_path / "cifar", tmp_path / "set")
    assert (dataset.input_shape, dataset.classes) == ((3, 32, 32), classes)
    for split, (images, fine) in expected.items():
        assert np.array_equal(raw_inputs(dataset, split), images)
        assert labels(dataset, split) == fine.tolist()


def test_bad_cifar_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "cifar"
    cifar(source, 10)
    for content, pattern in (
        (bytes(3072), "got 3072 bytes, allowed records of 3073"),
        (b"", "got 0 bytes"),
        (bytes([10]) + bytes(3072), "got label 10, allowed 0 to 9; is it CIFAR-10"),
    ):
        (source / "data_batch_3.bin").write_bytes(content)
        with refused(pattern, DataError):
            import_dataset("cifar-10", source, tmp_path / "set")
    with refused(r"train.bin: no such file; .*cifar-100-binary", DataError):
        import_dataset("cifar-100", source, tmp_path / "set")
    assert entries(tmp_path) == ["cifar"]


# QMNIST


def qmnist(folder: Path, columns: int = 8) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folder.mkdir()
    made = {}
    for split, n in (("train", 9), ("test", 4)):
        images = RANDOM.integers(0, 256, (n, 28, 28), np.uint8)
        rows = RANDOM.integers(0, 2**31 - 1, (n, columns))
        rows[:, 0] = RANDOM.integers(0, 10, n)
        header = struct.pack(">BBBBII", 0, 0, 0x0C, 2, n, columns)
        content = header + b"".join(struct.pack(">i", value) for value in rows.reshape(-1))
        (folder / f"qmnist-{split}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(idx_bytes(images))
        )
        (folder / f"qmnist-{split}-labels-idx2-int").write_bytes(content)
        made[split] = images, rows[:, 0]
    return made


def test_qmnist(tmp_path: Path) -> None:
    expected = qmnist(tmp_path / "qmnist")
    dataset = import_dataset("qmnist", tmp_path / "qmnist", tmp_path / "set")
    assert dataset.classes == 10
    for split, (images, digits) in expected.items():
        assert np.array_equal(raw_inputs(dataset, split), images[:, None])
        assert labels(dataset, split) == digits.tolist()


def test_bad_qmnist_is_refused(tmp_path: Path) -> None:
    qmnist(tmp_path / "a", columns=7)
    with refused("got rows of 7 integers, allowed 8", DataError):
        import_dataset("qmnist", tmp_path / "a", tmp_path / "set")
    qmnist(tmp_path / "b")
    (tmp_path / "b" / "qmnist-test-labels-idx2-int").write_bytes(idx_bytes(COLOUR[:, 0, 0]))
    with refused("magic number 00000802, allowed 00000c02: big-endian 32-bit", DataError):
        import_dataset("qmnist", tmp_path / "b", tmp_path / "set")
    with refused("no such folder", DataError):
        import_dataset("qmnist", tmp_path / "c", tmp_path / "set")


# Folders of images


def image_folder(folder: Path, splits: dict[str, str], classes: int = 2) -> None:
    """COLOUR's images in turn in the folders of ``classes`` classes, c0, c1, …, in each split."""
    for name, encoding in splits.items():
        for place, image in enumerate(COLOUR):
            inner = folder / name / f"c{place % classes}"
            inner.mkdir(parents=True, exist_ok=True)
            (inner / f"{place:02d}.{encoding}").write_bytes(picture(image, encoding))
            (inner / "notes.txt").touch()


ORDER = [*range(0, 12, 2), *range(1, 12, 2)]


@pytest.mark.parametrize("encoding", [None, "png"])
def test_image_folder(tmp_path: Path, encoding: Any) -> None:
    image_folder(tmp_path / "src", {"train": "png", "val": "png", "test": "png"})
    dataset = import_dataset("image-folder", tmp_path / "src", tmp_path / "set", encoding=encoding)
    assert list(dataset.splits) == ["train", "holdout", "test"]
    for split in dataset.splits:
        assert np.array_equal(raw_inputs(dataset, split), COLOUR[ORDER])
        assert labels(dataset, split) == [0] * 6 + [1] * 6


def test_image_folder_resizes_and_makes_grey_images_rgb(tmp_path: Path) -> None:
    image_folder(tmp_path / "src", {"train": "png", "val": "png"})
    (tmp_path / "src" / "train" / "c0" / "00.png").write_bytes(grey(COLOUR[0]))
    large = Image.fromarray(np.full((40, 60, 3), 77, np.uint8))
    large.save(tmp_path / "src" / "train" / "c0" / "02.png")
    with refused(r"02.png: got an image \[3, 40, 60\], allowed .*give --resize", DataError):
        import_dataset("image-folder", tmp_path / "src", tmp_path / "set")
    for encoding in (None, "png"):
        path = tmp_path / f"set-{encoding}"
        dataset = import_dataset(
            "image-folder", tmp_path / "src", path, resize=4, encoding=encoding
        )
        assert dataset.input_shape == (3, 4, 4)
        assert list(dataset.splits) == ["train", "test"], "val serves as test"
        images = raw_inputs(dataset)
        assert (images[0] == images[0, :1]).all() and (images[1] == 77).all()


def test_cinic_10(tmp_path: Path) -> None:
    image_folder(tmp_path / "src", {"train": "png", "valid": "png", "test": "png"}, classes=10)
    dataset = import_dataset("cinic-10", tmp_path / "src", tmp_path / "set")
    assert list(dataset.splits) == ["train", "holdout", "test"] and dataset.classes == 10
    image_folder(tmp_path / "few", {"train": "png", "valid": "png", "test": "png"}, classes=3)
    with refused("got 3 folders of classes, allowed 10", DataError):
        import_dataset("cinic-10", tmp_path / "few", tmp_path / "other")


def test_bad_image_folders_are_refused(tmp_path: Path) -> None:
    source, dst = tmp_path / "src", tmp_path / "set"
    with refused("no such folder", DataError):
        import_dataset("image-folder", source, dst)
    image_folder(source, {"train": "png"})
    with refused("got splits train, but 'test' is missing", DataError):
        import_dataset("image-folder", source, dst)
    image_folder(source, {"test": "png"}, classes=3)
    with refused("c2: got a class that train has no folder of", DataError):
        import_dataset("image-folder", source, dst)
    (source / "train" / "c0" / "00.png").write_bytes(b"GIF89a")
    with refused("00.png: got bytes that are no whole JPEG or PNG", DataError):
        import_dataset("image-folder", source, dst)
    assert entries(tmp_path) == ["src"]


# Clothing-1M


def clothing(folder: Path) -> None:
    (folder / "images" / "0").mkdir(parents=True)
    keys = [f"images/0/{number}.jpg" for number in range(12)]
    for key, image in zip(keys, COLOUR, strict=True):
        (folder / key).write_bytes(picture(image, "jpeg"))
    lists = {
        "noisy_train_key_list.txt": keys[:6],
        "clean_train_key_list.txt": keys[6:8],
        "clean_val_key_list.txt": keys[8:9],
        "clean_test_key_list.txt": keys[9:],
        "noisy_label_kv.txt": [f"{key} {n % 14}" for n, key in enumerate(keys)],
        "clean_label_kv.txt": [f"{key} {13 - n}" for n, key in enumerate(keys)],
    }
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n")


def test_clothing_1m(tmp_path: Path) -> None:
    clothing(tmp_path / "src")
    dataset = import_dataset("clothing-1m", tmp_path / "src", tmp_path / "set", encoding="jpeg")
    assert dataset.classes == 14
    assert labels(dataset) == [0, 1, 2, 3, 4, 5]
    assert labels(dataset, "holdout") == [7, 6, 5]
    assert labels(dataset, "test") == [4, 3, 2]
    expected = np.stack(
        [
            np.asarray(Image.open(tmp_path / "src" / f"images/0/{n}.jpg")).transpose(2, 0, 1)
            for n in range(12)
        ]
    )
    assert np.array_equal(raw_inputs(dataset), expected[:6])
    assert np.array_equal(raw_inputs(dataset, "holdout"), expected[6:9])


@pytest.mark.parametrize(
    ("file", "content", "pattern"),
    [
        ("noisy_train_key_list.txt", "images/0/99.jpg\n", "'images/0/99.jpg', which noisy_label"),
        ("noisy_label_kv.txt", "images/0/0.jpg 14\n", "line 1: got .*a label from 0 to 13"),
        ("noisy_label_kv.txt", "images/0/0.jpg\n", "line 1: got 'images/0/0.jpg', allowed 'key l"),
        ("clean_label_kv.txt", None, "clean_label_kv.txt: cannot be read"),
        ("images/0/3.jpg", None, "3.jpg: cannot be read: No such file"),
    ],
)
def test_bad_clothing_is_refused(tmp_path: Path, file: str, content: Any, pattern: str) -> None:
    clothing(tmp_path / "src")
    (tmp_path / "src" / file).unlink()
    if content is not None:
        (tmp_path / "src" / file).write_text(content)
    with refused(pattern, DataError):
        import_dataset("clothing-1m", tmp_path / "src", tmp_path / "set")


def test_clothing_keys_stay_inside_their_folder(tmp_path: Path) -> None:
    clothing(tmp_path / "src")
    (tmp_path / "secret.jpg").write_bytes(picture(COLOUR[0], "jpeg"))
    (tmp_path / "src" / "noisy_label_kv.txt").write_text("../secret.jpg 1\n")
    (tmp_path / "src" / "noisy_train_key_list.txt").write_text("../secret.jpg\n")
    with refused("got key '../secret.jpg', allowed paths inside", DataError):
        import_dataset("clothing-1m", tmp_path / "src", tmp_path / "set")


# Ambiguous-MNIST


def save_pt(folder: Path, samples: np.ndarray, marks: np.ndarray) -> None:
    torch.save(torch.from_numpy(samples), folder / "amnist_samples.pt")
    torch.save(torch.from_numpy(marks), folder / "amnist_labels.pt")


def save_npy(folder: Path, samples: np.ndarray, marks: np.ndarray) -> None:
    np.save(folder / "amnist_samples.npy", samples)
    np.save(folder / "amnist_labels.npy", marks)


def save_npz(folder: Path, samples: np.ndarray, marks: np.ndarray) -> None:
    np.savez(folder / "amnist.npz", amnist_samples=samples, amnist_labels=marks)


@pytest.mark.parametrize("save", [save_pt, save_npy, save_npz])
def test_ambiguous_mnist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[..., None]
) -> None:
    monkeypatch.setattr(ambiguous_mnist, "TRAIN_POINTS", 60)
    images = RANDOM.integers(0, 256, (10, 1, 28, 28), np.uint8)
    marks = RANDOM.integers(0, 10, (10, 10))
    save(tmp_path, (images / 255).astype(np.float32), marks)
    dataset = import_dataset("ambiguous-mnist", tmp_path, tmp_path / "set")
    assert dataset.splits == {"train": (0, 60), "test": (60, 100)} and dataset.classes == 10
    for place in (0, 9, 10, 59):
        assert np.array_equal(raw_inputs(dataset)[place], images[place // 10])
        assert labels(dataset)[place] == marks[place // 10, place % 10]
    assert labels(dataset, "test") == marks[6:].reshape(-1).tolist()


class Surprise:
    """What a hostile file holds: whoever unpickles it leaves a file behind."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("surprise"),)


def test_ambiguous_mnist_never_runs_a_files_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    marks = np.zeros((10, 10), np.int64)
    source = tmp_path / "src"
    source.mkdir()
    torch.save(Surprise(), source / "amnist_samples.pt")
    torch.save(torch.from_numpy(marks), source / "amnist_labels.pt")
    with refused("amnist_samples.pt: not readable as an array", DataError):
        import_dataset("ambiguous-mnist", source, tmp_path / "set")
    (source / "amnist_samples.pt").unlink()
    # What an attacker would make; allow_pickle is of the writing alone.
    np.save(source / "amnist_samples.npy", np.array([Surprise()], object), allow_pickle=True)
    with refused("amnist_samples.npy: not readable as an array", DataError):
        import_dataset("ambiguous-mnist", source, tmp_path / "set")
    assert entries(tmp_path) == ["src"]


@pytest.mark.parametrize(
    ("samples", "pattern"),
    [
        (np.zeros((10, 28, 28), np.float32), r"got samples \[10, 28, 28\]"),
        (np.full((10, 1, 28, 28), 2.0, np.float32), r"outside \[0, 1\]"),
        (np.zeros((10, 1, 28, 28), np.float32), "got 100 points, allowed more than the 60000"),
    ],
)
def test_bad_ambiguous_mnist_is_refused(tmp_path: Path, samples: np.ndarray, pattern: str) -> None:
    save_npy(tmp_path, samples, np.zeros((10, 10), np.int64))
    with refused(pattern, DataError):
        import_dataset("ambiguous-mnist", tmp_path, tmp_path / "set")


# GLUE


def hashed(words: str, tokens: int, vocabulary: int) -> list[int]:
    """What the documentation says of words that stand apart."""
    ids = [
        int.from_bytes(hashlib.blake2b(w.encode(), digest_size=8).digest(), "little")
        % (vocabulary - 1)
        + 1
        for w in words.split()
    ][:tokens]
    return ids + [0] * (tokens - len(ids))


COLA = {
    "train.tsv": "gj04\t1\t\tOur friends won't buy this.\ngj04\t0\t*\t\"They drank the pub.\n",
    "dev.tsv": "l-93\t1\t\tÉté, two  words\n",
}
SST2 = {"train.tsv": "sentence\tlabel\na gem \t1\nbad\t0\n", "dev.tsv": "sentence\tlabel\nok\t1\n"}


def glue(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_cola_and_sst_2(tmp_path: Path) -> None:
    cases = {
        "cola": (
            COLA,
            ["our friends won ' t buy this .", '" they drank the pub .'],
            "été , two words",
            [1, 0],
        ),
        "sst-2": (SST2, ["a gem", "bad"], "ok", [1, 0]),
    }
    for kind, (files, train, test, marks) in cases.items():
        source = glue(tmp_path / kind, files)
        dataset = import_dataset(kind, source, tmp_path / f"{kind}-set", tokens=6, vocabulary=500)
        assert (dataset.input_shape, dataset.classes) == ((6,), 2)
        assert dataset.manifest.vocabulary == 500
        points = dataset.split("train")
        batch = points.read(points.indices, CPU)
        assert batch.inputs.tolist() == [hashed(text, 6, 500) for text in train]
        assert batch.labels.tolist() == marks
        points = dataset.split("test")
        assert points.read(points.indices, CPU).inputs.tolist() == [hashed(test, 6, 500)]


@pytest.mark.parametrize(
    ("kind", "files", "pattern"),
    [
        ("cola", {"train.tsv": COLA["train.tsv"]}, "has no dev.tsv or in_domain_dev.tsv"),
        ("cola", COLA | {"dev.tsv": "index\tsentence\n0\tA b\n"}, "line 1: got 2 columns"),
        (
            "cola",
            COLA | {"dev.tsv": "a\t2\t\tA b\n"},
            r"line 1: .*the label \(0 or 1\) in column 2",
        ),
        ("cola", COLA | {"dev.tsv": "\n"}, "got no lines"),
        ("sst-2", SST2 | {"dev.tsv": "ok\t1\n"}, "allowed the header sentence, label"),
        ("sst-2", SST2 | {"dev.tsv": "sentence\tlabel\n\nok\tgood\n"}, "line 3: got 2 columns"),
    ],
)
def test_bad_glue_is_refused(
    tmp_path: Path, kind: str, files: dict[str, str], pattern: str
) -> None:
    with refused(pattern, DataError):
        import_dataset(kind, glue(tmp_path / "src", files), tmp_path / "set")
    assert entries(tmp_path) == ["src"]


# Hugging Face


def hugging_face(folder: Path, splits: dict[str, pa.Table], names: list[str] | None = None) -> Path:
    """What ``DatasetDict.save_to_disk`` writes: two files a split, in Arrow's streaming format."""
    folder.mkdir()
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    label = {"dtype": "int64", "_type": "Value"}
    if names:
        label = {"names": names, "_type": "ClassLabel"}  # type: ignore[dict-item]
    for split, table in splits.items():
        inner = folder / split
        inner.mkdir()
        files = [f"data-{number:05d}-of-00002.arrow" for number in range(2)]
        half = len(table) // 2
        for file, part in zip(files, (table[:half], table[half:]), strict=True):
            with pa.ipc.new_stream(str(inner / file), table.schema) as writer:
                writer.write_table(part)
        state = {"_data_files": [{"filename": file} for file in files], "_split": split}
        (inner / "state.json").write_text(json.dumps(state))
        (inner / "dataset_info.json").write_text(json.dumps({"features": {"label": label}}))
    return folder


def image_table() -> pa.Table:
    files = [{"bytes": picture(image), "path": None} for image in COLOUR]
    return pa.table({"image": files, "label": np.arange(12) % 3})


def test_hugging_face_images(tmp_path: Path) -> None:
    tables = {"train": image_table(), "validation": image_table(), "test": image_table()}
    source = hugging_face(tmp_path / "src", tables, ["a", "b", "c", "d"])
    for encoding in (None, "png"):
        dataset = import_dataset(
            "hugging-face", source, tmp_path / f"set-{encoding}", encoding=encoding
        )
        assert list(dataset.splits) == ["train", "holdout", "test"]
        assert dataset.classes == 4, "by the names of ClassLabel"
        assert np.array_equal(raw_inputs(dataset), COLOUR)
        assert labels(dataset, "test") == [n % 3 for n in range(12)]


def test_hugging_face_texts_with_an_unlabelled_test(tmp_path: Path) -> None:
    text = {"sentence": ["A gem .", "bad"], "label": [1, 0], "idx": [0, 1]}
    hidden = {"sentence": ["who knows", "?"], "label": [-1, -1], "idx": [0, 1]}
    tables = {"train": pa.table(text), "validation": pa.table(text), "test": pa.table(hidden)}
    source = hugging_face(tmp_path / "src", tables)
    dataset = import_dataset("hugging-face", source, tmp_path / "set", tokens=4)
    assert list(dataset.splits) == ["train", "test"]
    batch = dataset.split("test").read(np.array([2, 3]), CPU)
    assert batch.inputs.tolist() == [hashed("a gem .", 4, 8192), hashed("bad", 4, 8192)]


def test_hugging_face_numbers_by_columns_of_choice(tmp_path: Path) -> None:
    table = pa.table({"x": [[1.0, 2.0], [3.0, 4.0]], "coarse": [0, 1], "label": [5, 6]})
    source = hugging_face(tmp_path / "src", {"train": table, "test": table})
    with refused("none of them inputs and label by name; give --columns", DataError):
        import_dataset("hugging-face", source, tmp_path / "set")
    with refused("'y' is missing; give --columns", DataError):
        import_dataset("hugging-face", source, tmp_path / "set", columns=("y", "coarse"))
    dataset = import_dataset("hugging-face", source, tmp_path / "set", columns=("x", "coarse"))
    assert dataset.manifest.inputs.kind == "float" and labels(dataset) == [0, 1]


def test_bad_hugging_face_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with refused("dataset_dict.json: missing .*save_to_disk", DataError):
        import_dataset("hugging-face", tmp_path / "empty", tmp_path / "set")
    paths = pa.table({"image": [{"bytes": None, "path": "a.png"}] * 2, "label": [0, 1]})
    dates = pa.table({"text": ["a", "b"], "label": pa.array([0, 1], pa.date32())})
    for name, table, pattern in (
        ("paths", paths, "row 0: got no bytes of an image; embed them"),
        ("dates", dates, r"labels of type date32\[day\], allowed integers"),
    ):
        source = hugging_face(tmp_path / name, {"train": table, "test": table})
        with refused(pattern, DataError):
            import_dataset("hugging-face", source, tmp_path / "set")
    (source / "train" / "data-00001-of-00002.arrow").write_bytes(b"no Arrow")
    with refused("not a split on disk", DataError):
        import_dataset("hugging-face", source, tmp_path / "set")


def test_hugging_face_as_its_own_library_writes_it(tmp_path: Path) -> None:
    import datasets  # here, because it takes a second

    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b", "c"])
    )
    rows = {
        "image": [Image.fromarray(image.transpose(1, 2, 0)) for image in COLOUR],
        "label": [n % 3 for n in range(12)],
    }
    part = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(train=part, test=part).save_to_disk(str(tmp_path / "src"))
    dataset = import_dataset("hugging-face", tmp_path / "src", tmp_path / "set")
    assert np.array_equal(raw_inputs(dataset), COLOUR) and dataset.classes == 3


# WebDataset


def tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


def samples(begin: int, end: int) -> list[tuple[str, bytes]]:
    members = []
    for number in range(begin, end):
        members.append((f"photos/{number:04d}.png", picture(COLOUR[number])))
        members.append((f"photos/{number:04d}.cls", f"{number % 3}\n".encode()))
        members.append((f"photos/{number:04d}.json", b"{}"))
    return members


@pytest.mark.parametrize("layout", ["{}-{:06d}.tar", "{}/{:06d}.tar"])
def test_webdataset(tmp_path: Path, layout: str) -> None:
    for split in ("train", "test"):
        tar(tmp_path / "src" / layout.format(split, 0), samples(0, 7))
        tar(tmp_path / "src" / layout.format(split, 1), samples(7, 12))
    dataset = import_dataset("webdataset", tmp_path / "src", tmp_path / "set")
    for split in ("train", "test"):
        assert np.array_equal(raw_inputs(dataset, split), COLOUR)
        assert labels(dataset, split) == [n % 3 for n in range(12)]


@pytest.mark.filterwarnings("ignore:.*unclosed file")  # the library leaves it open
def test_webdataset_reads_what_its_own_library_reads(tmp_path: Path) -> None:
    import webdataset as wds

    for split in ("train", "test"):
        tar(tmp_path / "src" / f"{split}-0.tar", samples(0, 12))
    dataset = import_dataset("webdataset", tmp_path / "src", tmp_path / "set")
    read = list(wds.WebDataset(str(tmp_path / "src" / "train-0.tar"), shardshuffle=False))
    assert [int(sample["cls"]) for sample in read] == labels(dataset)
    theirs = [np.asarray(Image.open(io.BytesIO(s["png"]))).transpose(2, 0, 1) for s in read]
    assert np.array_equal(raw_inputs(dataset), np.stack(theirs))


def test_names_in_a_tar_reach_no_file(tmp_path: Path) -> None:
    members = [("../../evil.png", picture(COLOUR[0])), ("../../evil.cls", b"1")]
    members += [("/abs.png", picture(COLOUR[1])), ("/abs.cls", b"0")]
    for split in ("train", "test"):
        tar(tmp_path / "in" / "src" / f"{split}-0.tar", members)
    dataset = import_dataset("webdataset", tmp_path / "in" / "src", tmp_path / "in" / "set")
    assert labels(dataset) == [1, 0]
    assert entries(tmp_path) == ["in"] and entries(tmp_path / "in") == ["set", "src"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    tar(tmp_path / "src" / "test-0.tar", samples(0, 3))
    with tarfile.open(tmp_path / "src" / "train-0.tar", "w") as file:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = kind, "/etc/passwd"
        file.addfile(info)
    with refused("'a.png': got 0 bytes of type .*allowed regular files", DataError):
        import_dataset("webdataset", tmp_path / "src", tmp_path / "set")


def test_bad_webdatasets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "src"
    tar(source / "test-0.tar", samples(0, 3))
    good = samples(0, 3)
    whole = (source / "test-0.tar").read_bytes()
    for members, pattern in (
        (good[:1], "sample 'photos/0000': got files png and label b''"),
        (good[1:2], "got files cls and label b'0"),
        ([good[0], ("photos/0000.cls", b"cat")], "label b'cat', allowed"),
        ([good[0], ("photos/0000.jpg", b""), good[1]], "allowed one of jpg, jpeg, png"),
        ([good[0], good[1], good[0]], "sample 'photos/0000': got two files .png, allowed one"),
        ([good[0], good[3], good[1], good[4]], "files of a sample are neighbours .*sort the tar"),
        ([("a.0.png", b""), ("a.0.cls", b"")], "got files 0.cls, 0.png .*so a key has no dot"),
    ):
        tar(source / "train-0.tar", members)
        with refused(pattern, DataError):
            import_dataset("webdataset", source, tmp_path / "set")
    (source / "train-0.tar").write_bytes(whole[:700])
    with refused("not a readable tar", DataError):
        import_dataset("webdataset", source, tmp_path / "set")
    (source / "train-0.tar").write_bytes(b"no tar at all")
    with refused("not a readable tar", DataError):
        import_dataset("webdataset", source, tmp_path / "set")
    tar(source / "train-0.tar", good)
    monkeypatch.setattr(webdataset, "FILE_BYTES", 20)
    with refused("allowed regular files of at most 20", DataError):
        import_dataset("webdataset", source, tmp_path / "set")
    (source / "train-0.tar").rename(source / "shard-0.tar")
    with refused("got a tar of split 'shard', allowed train", DataError):
        import_dataset("webdataset", source, tmp_path / "set")
