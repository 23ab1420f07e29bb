"""What an import leaves out of a source: skipped, counted and told, or refused; never a class."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from data_helpers import entries, labels, refused
from PIL import Image

from rhoselect.data import ArrowDataset
from rhoselect.errors import DataError
from rhoselect.importers import import_dataset
from support import made

HIDDEN = "hidden entries and those of file systems, skipped"


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 3), value).save(file, "png")
    return file.getvalue()


def folder(path: Path, files: Mapping[str, bytes]) -> Path:
    """A folder with these files and the folders above them."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def tar(path: Path, files: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


CLEAN = {
    f"{split}/{name}/{number}.png": png(number)
    for split in ("train", "test")
    for place, name in enumerate(("cat", "dog"))
    for number in (place, place + 2)
}
LEFTOVERS = {
    "train/.ipynb_checkpoints/0-checkpoint.png": png(9),
    "train/cat/.ipynb_checkpoints/0-checkpoint.png": png(9),
    "train/cat/._0.png": b"\0\5\x16\7 of a Mac",
    "train/cat/.DS_Store": b"",
    "train/cat/Thumbs.db": b"",
    "train/@eaDir/0.png": png(9),
    "test/__MACOSX/0.png": png(9),
    "test/lost+found/0.png": png(9),
    ".git/train/cat/0.png": png(9),
}


def test_leftovers_are_no_classes_and_no_pictures(tmp_path: Path) -> None:
    clean = import_dataset("image-folder", folder(tmp_path / "a", CLEAN), tmp_path / "set-a")
    source = folder(tmp_path / "b", CLEAN | LEFTOVERS)
    shown = made("data", "import", "image-folder", source, tmp_path / "set-b").out
    with_leftovers = ArrowDataset.open(tmp_path / "set-b")
    assert with_leftovers.classes == 2
    assert with_leftovers.fingerprint == clean.fingerprint
    assert clean.manifest.notes == ()
    assert f"note         {HIDDEN}: {len(LEFTOVERS)}\n" in shown
    assert HIDDEN in made("data", "info", tmp_path / "set-b").out


def test_leftovers_in_a_tar_and_beside_it(tmp_path: Path) -> None:
    pairs = {f"./x/{n}.{e}": c for n in "ab" for e, c in (("cls", b"1"), ("png", png(ord(n))))}
    hidden = {"./x/._a.cls": b"\0\5", "./x/._a.png": b"\0\5", "./__MACOSX/x/a.png": b"", ".m": b""}
    for split in ("train", "test"):
        tar(tmp_path / "src" / f"{split}-0.tar", {**hidden, **pairs})
    folder(tmp_path / "src", {"._train-0.tar": b"\0\5", ".ipynb_checkpoints/train-0.tar": b""})
    dataset = import_dataset("webdataset", tmp_path / "src", tmp_path / "set")
    assert labels(dataset) == labels(dataset, "test") == [1, 1]
    assert f"{HIDDEN}: {2 * len(hidden) + 2}" in dataset.manifest.notes


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    others = {
        "train/cat/0.webp": b"",
        "train/dog/1.WEBP": b"",
        "train/dog/1.gif": b"",
        "train/dog/README": b"",
        "train/dog/more/1.png": png(1),
        "train/dog/more/even/2.jpg": png(2),
        "train/dog/more/notes.txt": b"",
        "train/labels.csv": b"",
        "train/loose.png": png(3),
        "extra/cat/0.png": png(0),
    }
    source = folder(tmp_path / "src", CLEAN | others)
    (source / "test" / "bird").mkdir()
    with refused("bird: got a class that train has no folder of", DataError):
        import_dataset("image-folder", source, tmp_path / "set")
    (source / "test" / "bird").rmdir()
    for path in (source / "test" / "dog").iterdir():
        path.unlink()
    assert import_dataset("image-folder", source, tmp_path / "set").manifest.notes == (
        "splits that are not read: extra",
        "folders of classes without a picture: 1",
        "pictures in folders below those of classes, skipped: 2",
        "files beside the folders of classes, skipped: 2",
        "files of other kinds, skipped: 4 (.webp 2, .gif 1, no ending 1)",
    )


def test_files_of_a_sample_that_are_not_read_are_counted(tmp_path: Path) -> None:
    sample = {"0.png": png(1), "0.cls": b"0", "0.json": b"{}", "0.seg.png": b""}
    for split in ("train", "test", "val"):
        tar(tmp_path / "src" / f"{split}-0.tar", sample)
    (tmp_path / "src" / "train-1.tar.gz").touch()
    notes = import_dataset("webdataset", tmp_path / "src", tmp_path / "set").manifest.notes
    assert notes == ("files of other kinds, skipped: 7 (.json 3, .png 3, .gz 1)",)


@pytest.mark.parametrize("inside", [None, "0.webp", "more/0.png"])
def test_a_class_without_pictures_is_refused(tmp_path: Path, inside: str | None) -> None:
    source = folder(tmp_path / "src", CLEAN)
    (source / "train" / "bird").mkdir()
    if inside is not None:
        folder(source / "train" / "bird", {inside: png(1)})
    with refused(r"train: got no images in bird, allowed .*directly in each", DataError):
        import_dataset("image-folder", source, tmp_path / "set")
    assert entries(tmp_path) == ["src"]


def test_a_picture_that_a_link_does_not_reach_is_refused(tmp_path: Path) -> None:
    source = folder(tmp_path / "src", CLEAN)
    (source / "train" / "cat" / "9.png").symlink_to(tmp_path / "gone.png")
    with refused("9.png: cannot be read: No such file", DataError):
        import_dataset("image-folder", source, tmp_path / "set")


def test_both_names_of_a_split(tmp_path: Path) -> None:
    more = {f"{split}/cat/7.png": png(7) for split in ("holdout", "val")} | {
        "val/cat/8.png": png(8)
    }
    dataset = import_dataset("image-folder", folder(tmp_path / "src", CLEAN | more), tmp_path / "s")
    assert dataset.splits["holdout"] == (4, 5), "our own name of it goes first"
    assert dataset.manifest.notes == ("splits that are not read: val",)


@pytest.mark.parametrize(
    ("names", "note"),
    [
        (["0", "1", "2", "10"], ("10 is class 2, 2 is class 3",)),
        (["00", "01", "02"], ()),
        (["1", "a"], ()),
    ],
)
def test_folders_named_by_numbers(tmp_path: Path, names: list[str], note: tuple[str]) -> None:
    files = {f"{split}/{name}/0.png": png(0) for split in ("train", "test") for name in names}
    dataset = import_dataset("image-folder", folder(tmp_path / "src", files), tmp_path / "set")
    said = "classes are numbered in the order of names as texts: "
    assert dataset.manifest.notes == tuple(said + line for line in note)


def arrays(path: Path, train: list[int], test: list[int]) -> Path:
    x = np.zeros((8, 2), np.float32)
    sides = {"train": train, "test": test}
    found = {f"x_{side}": x[: len(values)] for side, values in sides.items()}
    np.savez(path, **found, **{f"y_{side}": np.array(v) for side, v in sides.items()})
    return path


def test_gaps_between_labels_are_told_or_closed(tmp_path: Path) -> None:
    source = arrays(tmp_path / "a.npz", [11, 1, 21, 1], [21])
    shown = made("data", "import", "numpy", source, tmp_path / "set").out
    assert "classes      22\n" in shown
    assert "19 of 22 classes have no point in train, whose labels are 1, 11, 21;" in shown
    shown = made("data", "import", "numpy", source, tmp_path / "mapped", "--map-labels").out
    assert (
        "classes      3: 1, 11, 21\n" in shown and "labels 1, 11, 21 are numbered 0 to 2" in shown
    )
    assert "have no point" not in shown
    dataset = ArrowDataset.open(tmp_path / "mapped")
    assert labels(dataset) == [1, 0, 2, 0] and labels(dataset, "test") == [2]


def test_labels_that_need_no_map_and_labels_below_zero(tmp_path: Path) -> None:
    plain = arrays(tmp_path / "a.npz", [0, 1, 2], [2])
    one = import_dataset("numpy", plain, tmp_path / "a")
    other = import_dataset("numpy", plain, tmp_path / "b", map_labels=True)
    assert one.fingerprint == other.fingerprint and one.manifest.notes == other.manifest.notes == ()
    signs = arrays(tmp_path / "c.npz", [1, -1], [1])
    with refused("train: got label -1, allowed 0 and up; .*--map-labels", DataError):
        import_dataset("numpy", signs, tmp_path / "c")
    dataset = import_dataset("numpy", signs, tmp_path / "c", map_labels=True)
    assert labels(dataset) == [1, 0] and dataset.classes == 2


def test_a_class_of_test_alone_is_told(tmp_path: Path) -> None:
    source = arrays(tmp_path / "a.npz", [0, 1], [2])
    (note,) = import_dataset("numpy", source, tmp_path / "set", map_labels=True).manifest.notes
    assert note.startswith("1 of 3 classes have no point in train, whose labels are 0, 1;")
