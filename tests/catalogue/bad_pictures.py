"""Bad sources of pictures and arrays, and bad inputs with hundreds of names."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cases import Arguments, Case, Place, setting

MANY = [f"name-{number:04d}-of-a-long-list" for number in range(600)]


def png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "png")
    return file.getvalue()


def imported(place: Place, kind: str, *more: str) -> Arguments:
    return ["data", "import", kind, place.folder / "source", place.new, *more]


def pictures(name: str, files: Mapping[str, bytes | None], pattern: str) -> Case:
    """An image folder of two classes and ``files``; None makes a folder."""

    def build(place: Place) -> Arguments:
        everything = {f"{s}/{c}/0.png": png() for s in ("train", "test") for c in "ab"} | files
        for file, content in everything.items():
            path = place.folder / "source" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if content is None else path.write_bytes(content)
        return imported(place, "image-folder")

    return Case("image folder", name, build, pattern)


def tars(name: str, files: list[str], pattern: str) -> Case:
    """A WebDataset whose files have one byte each."""

    def build(place: Place) -> Arguments:
        (place.folder / "source").mkdir()
        for split in ("train", "test"):
            with tarfile.open(place.folder / "source" / f"{split}-0.tar", "w") as tar:
                for file in files:
                    info = tarfile.TarInfo(file)
                    info.size = 1
                    tar.addfile(info, io.BytesIO(b"0"))
        return imported(place, "webdataset")

    return Case("WebDataset", name, build, pattern)


def arrays(name: str, x: Any, pattern: str, *more: str, kind: str = "NumPy archive") -> Case:
    """An .npz with ``x`` as inputs of both splits, or with the arrays of a dictionary."""

    def build(place: Place) -> Arguments:
        y = np.arange(len(x)) % 2
        every = x if isinstance(x, dict) else {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
        with (place.folder / "source").open("wb") as file:
            np.savez(file, **every)
        return imported(place, "numpy", *more)

    return Case(kind, name, build, pattern)


def many(name: str, pattern: str, make: Callable[[Place], Arguments]) -> Case:
    return Case("hundreds of names", name, make, pattern)


def many_columns(place: Place) -> Arguments:
    (place.folder / "source").mkdir()
    for split in ("train", "test"):
        table = pa.table({name: [1] for name in MANY})
        pq.write_table(table, place.folder / "source" / f"{split}.parquet")
    return imported(place, "parquet")


def many_splits(place: Place) -> Arguments:
    (place.folder / "source").mkdir()
    document = json.dumps({"splits": ["train", *MANY, "../out"]})
    (place.folder / "source" / "dataset_dict.json").write_text(document)
    return imported(place, "hugging-face")


def many_folders(place: Place) -> Arguments:
    for name in MANY:
        (place.folder / "source" / name).mkdir(parents=True)
    return imported(place, "image-folder")


def many_empty_classes(place: Place) -> Arguments:
    for name in MANY:
        for split in ("train", "test"):
            (place.folder / "source" / split / name).mkdir(parents=True)
    return imported(place, "image-folder")


def many_labels(place: Place) -> Arguments:
    text = "\n".join(f"{name} 1" for name in MANY)
    for file in ("noisy_label_kv.txt", "noisy_train_key_list.txt"):
        path: Path = place.folder / "source" / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(text if "kv" in file else "x" * 5000)
    return imported(place, "clothing-1m")


U8 = np.uint8
PICTURES = [
    pictures("class without pictures", {"train/c": None}, r"train: got no images in c, allowed"),
    pictures(
        "class with other pictures alone",
        {"train/c/0.webp": b"RIFF", "train/c/0.gif": b"GIF"},
        r"got no images in c, allowed \.png, .*convert pictures of other kinds",
    ),
    pictures("class of test alone", {"test/c/0.png": png()}, r"c: got a class that train has no"),
    pictures("picture of bytes", {"train/a/1.png": b"?"}, r"a/1\.png: got bytes that are no whole"),
    tars(
        "dots in 600 keys",
        [f"{name}.{n}.{e}" for n in range(600) for name in "a" for e in ("png", "cls")],
        r"sample '/a': got files 0\.cls, 0\.png, .* \(and 1190 more\) .*so a key has no dot",
    ),
    tars("file twice", ["a.png", "a.cls", "a.png"], r"sample '/a': got two files \.png"),
    tars("files apart", ["a.png", "b.png", "a.cls", "b.cls"], r"files png and .*are neighbours"),
    arrays("two readings", np.zeros((4, 3, 9, 3), U8), r"may be 3 channels of 9 x 3 or 3 channels"),
    arrays("many channels", np.zeros((4, 9, 8, 7), U8), r"give --shape 9,8,7 or --shape 7,9,8"),
    arrays("flat bytes", np.zeros((4, 9), U8), r"x_train: got bytes without a shape; give --shape"),
    arrays("pictures of 16 bits", np.zeros((4, 9, 9), np.uint16), r"or images as uint8 from 0 to"),
    arrays(
        "another shape", np.zeros((4, 9, 9), U8), r"--shape says \[1, 8, 8\]", "--shape", "1,8,8"
    ),
    arrays(
        "labels below 0",
        {
            "x_train": np.zeros((2, 3)),
            "y_train": np.array([-1, 1]),
            "x_test": np.zeros((2, 3)),
            "y_test": np.array([-1, 1]),
        },
        r"got label -1, allowed 0 and up; number the classes from 0, as --map-labels",
    ),
    arrays(
        "arrays", dict.fromkeys(MANY, np.zeros(1)), r"\(and 590 more\)", kind="hundreds of names"
    ),
    many("columns", r"\(and 590 more\)", many_columns),
    many("splits in a file", r"got splits \['train', .*…, allowed", many_splits),
    many("folders", r"got splits name-0000.* \(and 590 more\), but 'train'", many_folders),
    many("empty classes", r"no images in name-0000.* \(and 590 more\)", many_empty_classes),
    many("a key of 5000 letters", r"got key 'x+…', which", many_labels),
    many("arguments", r"unexpected extra argument", lambda p: [*imported(p, "idx"), *MANY]),
    setting(
        "torch data set",
        "random items",
        r"data\.dataset 'user_code:Noisy': got another item when item \d+ of train was read again",
        "data={dataset = 'user_code:Noisy'}",
    ),
]
