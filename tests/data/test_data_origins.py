"""Which row or file of the source each point of a data set is."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_helpers import CPU, image_splits, refused
from PIL import Image

from rhoselect.data import ArrowDataset, SplitPoints
from rhoselect.errors import DataError
from rhoselect.importers import import_dataset, write_dataset
from support import made, rhoctl


def origins(points: SplitPoints) -> list[tuple[Any, Any]]:
    """(source, row) of all points of a split."""
    found = points.origins(points.indices)
    return list(zip(found.source.tolist(), found.row.tolist(), strict=True))


def values(points: SplitPoints) -> list[float]:
    """The first number of each input, by which a test tells which point it is."""
    inputs = points.read(points.indices, CPU).inputs
    found: list[float] = inputs.reshape(len(inputs), -1)[:, 0].tolist()
    return found


def test_rows_of_a_table_after_everything_that_moves_points(tmp_path: Path) -> None:
    """Row 3 of the source is not point 3 any more."""
    lines = "".join(f"{number},{number % 4}\n" for number in range(200))
    (tmp_path / "points.csv").write_text("x,label\n" + lines)
    dataset = import_dataset(
        "csv", tmp_path / "points.csv", tmp_path / "set", columns=("x", "label"), test=0.2,
        holdout=0.3, label_noise=0.2, relevance=(2, 0.5), ambiguous=0.1, duplicates=3,
    )  # fmt: skip
    dataset.verify()
    moved = 0
    for split in dataset.splits:
        points = dataset.split(split)
        made_up = points.ambiguous(points.indices).tolist()
        rows = zip(values(points), origins(points), made_up, points.indices, strict=True)
        for value, origin, is_made, index in rows:
            assert origin == ((None, None) if is_made else ("points.csv", int(value)))
            moved += not is_made and index != value
    assert moved > 100


def test_files_of_a_split_and_rows_in_them(tmp_path: Path) -> None:
    for name, rows in (("train-0.parquet", [0, 1]), ("train-1.parquet", [2, 3, 4])):
        pq.write_table(
            pa.table({"inputs": [[float(r)] for r in rows], "label": rows}), tmp_path / name
        )
    pq.write_table(pa.table({"inputs": [[0.0]], "label": [0]}), tmp_path / "test.parquet")
    dataset = import_dataset("parquet", tmp_path, tmp_path / "set")
    expected = [("train-0.parquet", 0), ("train-0.parquet", 1)]
    expected += [("train-1.parquet", row) for row in range(3)]
    assert origins(dataset.split("train")) == expected
    assert origins(dataset.split("test")) == [("test.parquet", 0)]


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((2, 2, 3), value, np.uint8)).save(file, "png")
    return file.getvalue()


def test_files_of_an_image_folder(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number in range(8):
            path = tmp_path / "src" / split / f"class {number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(number))
    dataset = import_dataset("image-folder", tmp_path / "src", tmp_path / "set", holdout=0.5)
    assert dataset.class_names == ("class 0", "class 1")
    m = dataset.manifest
    assert m.mean is not None and m.std is not None
    for split in dataset.splits:
        points = dataset.split(split)
        for value, (source, row) in zip(values(points), origins(points), strict=True):
            number = round((value * m.std[0] + m.mean[0]) * 255)
            folder = "test" if split == "test" else "train"
            assert (source, row) == (f"{folder}/class {number % 2}/{number}.png", None)


def test_keys_of_a_webdataset(tmp_path: Path) -> None:
    for name in ("train-000000", "train-000001", "test-000000"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as file:
            for ending, content in (("png", png(1)), ("cls", b"0")):
                member = tarfile.TarInfo(f"a/0007.{ending}")
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    dataset = import_dataset("webdataset", tmp_path, tmp_path / "set")
    expected = [("train-000000.tar/a/0007", None), ("train-000001.tar/a/0007", None)]
    assert origins(dataset.split("train")) == expected


def test_other_sources_have_rows_of_their_splits(tmp_path: Path) -> None:
    splits = {name: (np.float32([[0], [1], [2]]), np.arange(3)) for name in ("train", "test")}
    write_dataset(tmp_path / "set", "float", splits, holdout=0.34)
    dataset = ArrowDataset.open(tmp_path / "set")
    for split in dataset.splits:
        points = dataset.split(split)
        name = "test" if split == "test" else "train"
        assert origins(points) == [(name, int(value)) for value in values(points)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "set", "image", image_splits(), class_names=[*"abcde"])
    return tmp_path / "set"


def test_the_fingerprint_is_that_of_imports_without_origins_and_names(folder: Path) -> None:
    """Else irreducible losses that were fitted before would be refused."""
    assert ArrowDataset.open(folder).fingerprint == FINGERPRINT


FINGERPRINT = "848e242c7994fede237ea4b5410fa7fc4d7758b4ee4b1f9cfef139bfd75c727b"
"""As release 0.1 made it."""


def test_a_folder_of_an_older_release_opens(folder: Path) -> None:
    (folder / "origins.parquet").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    for key in ("origins", "class_names", "columns", "notes"):
        del manifest[key]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    dataset = ArrowDataset.open(folder)
    dataset.verify()
    points = dataset.split("train")
    assert dataset.class_names is None and set(origins(points)) == {(None, None)}
    said = made("data", "info", folder, "--points", "3").out
    assert said.endswith("point 3      train, label 3, origin not known\n")


def test_a_run_needs_no_origins_but_a_check_does(folder: Path) -> None:
    path = folder / "origins.parquet"
    content = path.read_bytes()
    points = ArrowDataset.open(folder).split("train")
    path.write_bytes(content[:-1])
    assert len(points.read(points.indices, CPU).labels) == 50
    with refused("origins.parquet: got sha256 .*allowed .* by the manifest", DataError):
        points.origins(points.indices)
    with refused("origins.parquet: got sha256", DataError):
        ArrowDataset.open(folder).verify()
    path.unlink()
    with refused("origins.parquet: No such file.* copy it from", DataError):
        ArrowDataset.open(folder).verify()


def described(file: str, rows: int) -> dict[str, Any]:
    return {"file": file, "rows": rows, "bytes": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    ("key", "value", "pattern"),
    [
        ("class_names", ["a"], "class_names: got 1 names, allowed 5, one a class"),
        ("origins", described("o.parquet", 3), "origins: got 3 rows, allowed 70"),
        ("origins", described("../o", 70), "malformed at origins.file"),
    ],
)
def test_a_manifest_that_says_otherwise_is_refused(
    folder: Path, key: str, value: Any, pattern: str
) -> None:
    manifest = json.loads((folder / "manifest.json").read_text()) | {key: value}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with refused(pattern, DataError):
        ArrowDataset.open(folder)


def test_the_command_shows_where_points_came_from(folder: Path) -> None:
    said = made("data", "info", folder, "--points", "3,69").out.splitlines()[-2:]
    assert said == [
        "point 3      train, label 3 (d), from train, row 3",
        "point 69     test, label 4 (e), from test, row 19",
    ]
    for words in ("70", "-1", "x", "1,,2"):
        result = rhoctl("data", "info", folder, "--points", words)
        assert result.code == 2 and "allowed indices from 0 to 69, as in 3,17" in result.err
