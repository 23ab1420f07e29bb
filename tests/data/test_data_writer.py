"""Writing data sets: fingerprint, label noise, holdout, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import CPU, entries, image_splits, refused

from rhoselect.data import ArrowDataset
from rhoselect.errors import DataError
from rhoselect.importers import write_dataset


def fingerprint(folder: Path, splits: dict[str, Any], **options: Any) -> str:
    folder = folder / str(len(entries(folder)))
    return write_dataset(folder, "image", splits, **options).fingerprint


def test_the_fingerprint_follows_the_content_and_nothing_else(tmp_path: Path) -> None:
    base = fingerprint(tmp_path, image_splits())
    for rows in (1, 7, 50, 1000):
        assert fingerprint(tmp_path, image_splits(), shard_rows=rows, source="elsewhere") == base
    others = [image_splits() for _ in range(4)]
    others[0]["train"][0][49, 1, 3, 2] ^= 1
    others[1]["test"][1][0] = 1
    others[2]["train"] = tuple(array[::-1] for array in others[2]["train"])
    images, labels = others[3]["train"]
    others[3] |= {"train": (images[:40], labels[:40]), "holdout": (images[40:], labels[40:])}
    transposed = {s: (x.reshape(-1, 2, 3, 4), y) for s, (x, y) in image_splits().items()}
    prints = [
        base,
        *(fingerprint(tmp_path, other) for other in [*others, transposed]),
        fingerprint(tmp_path, image_splits(), classes=6),
        fingerprint(tmp_path, image_splits(), label_noise=0.5),
        fingerprint(tmp_path, image_splits(), label_noise=0.5, noise_seed=1),
        fingerprint(tmp_path, image_splits(), holdout=0.5),
        fingerprint(tmp_path, image_splits(), holdout=0.5, holdout_seed=1),
    ]
    assert len(set(prints)) == len(prints)


def test_label_noise_goes_to_the_other_classes_and_spares_test(tmp_path: Path) -> None:
    n, p = 40_000, 0.3
    inputs = np.zeros((n, 1), np.float32)
    splits = {s: (inputs, np.arange(n) % 4) for s in ("train", "holdout", "test")}
    write_dataset(tmp_path / "set", "float", splits, label_noise=p, noise_seed=3)
    dataset = ArrowDataset.open(tmp_path / "set")
    assert (dataset.manifest.label_noise, dataset.manifest.noise_seed) == (p, 3)
    wrong = {}
    for name in splits:
        points = dataset.split(name)
        labels, clean = points.labels(points.indices), points.clean_labels(points.indices)
        assert clean is not None
        assert np.array_equal(clean, splits[name][1])
        wrong[name] = labels != clean
        if name == "test":
            assert not wrong[name].any()
            continue
        assert abs(wrong[name].mean() - p) < 5 * np.sqrt(p * (1 - p) / n)
        pairs = np.bincount(4 * clean[wrong[name]] + labels[wrong[name]], minlength=16)
        others = pairs.reshape(4, 4)[~np.eye(4, dtype=bool)]
        assert abs(others - n * p / 12).max() < 5 * np.sqrt(n * p / 12)
    assert not np.array_equal(wrong["train"], wrong["holdout"])


def test_the_holdout_is_disjoint_and_complete_and_keeps_its_noise(tmp_path: Path) -> None:
    n = 1000
    inputs = np.arange(n, dtype=np.float32)[:, None]  # each point names itself
    splits = {s: (inputs + shift, np.arange(n) % 5) for s, shift in (("train", 0), ("test", n))}
    labels = {}
    for fraction in (0.0, 0.3, 0.5):
        path = tmp_path / str(fraction)
        write_dataset(path, "float", splits, label_noise=0.2, holdout=fraction)
        dataset = ArrowDataset.open(path)
        seen = {}
        for name in dataset.splits:
            points = dataset.split(name)
            batch = points.read(points.indices, CPU)
            names = batch.inputs[:, 0].long().tolist()
            assert names == sorted(names)
            seen |= dict(zip(names, batch.labels.tolist(), strict=True))
        assert len(seen) == 2 * n
        assert ("holdout" in dataset.splits) == (fraction > 0)
        assert len(dataset.split("train")) == n - round(fraction * n)
        assert list(dataset.splits) == [
            s for s in ("train", "holdout", "test") if s in dataset.splits
        ]
        labels[fraction] = seen
    assert labels[0.0] == labels[0.3] == labels[0.5]


def changed(**splits: Any) -> dict[str, Any]:
    return image_splits() | splits


IMAGES, LABELS = image_splits()["train"]
FLOATS = np.ones((4, 3), np.float32)
REFUSALS: dict[str, tuple[str, dict[str, Any]]] = {
    "noise of 1": ("label noise: got 1", {"label_noise": 1.0}),
    "noise below 0": ("label noise", {"label_noise": -0.1}),
    "noise NaN": ("label noise", {"label_noise": float("nan")}),
    "holdout of 1": ("holdout: got 1", {"holdout": 1.0}),
    "holdout of no point": ("leaves one side empty", {"holdout": 0.001}),
    "holdout of all points": ("leaves one side empty", {"holdout": 0.999}),
    "negative seed": ("noise seed: got -1", {"noise_seed": -1}),
    "noise in one class": (
        "got 1 class",
        {"label_noise": 0.1, "splits": dict.fromkeys(("train", "test"), (IMAGES, LABELS * 0))},
    ),
    "second holdout": (
        "already|has a holdout",
        {"holdout": 0.5, "splits": changed(holdout=(IMAGES, LABELS))},
    ),
    "unknown split": ("splits: got", {"splits": changed(validation=(IMAGES, LABELS))}),
    "no test": ("splits: got train,", {"splits": {"train": (IMAGES, LABELS)}}),
    "counts differ": ("50 inputs and 49 labels", {"splits": changed(train=(IMAGES, LABELS[1:]))}),
    "no points": ("0 inputs and 0", {"splits": changed(train=(IMAGES[:0], LABELS[:0]))}),
    "label negative": ("label -1", {"splits": changed(train=(IMAGES, LABELS - 1))}),
    "label beyond": ("got 4, allowed 0 to 3 with 4", {"classes": 4}),
    "labels float": ("float64", {"splits": changed(train=(IMAGES, LABELS * 1.0))}),
    "labels in columns": (r"\[50, 1\]", {"splits": changed(train=(IMAGES, LABELS[:, None]))}),
    "floats as images": ("float32", {"splits": changed(train=(FLOATS, LABELS[:4]))}),
    "shapes differ": (
        r"test: got inputs of shape \[2, 2, 3\]",
        {"splits": changed(test=(IMAGES[:, :, :2], LABELS))},
    ),
    "NaN": (
        "NaN or infinite input in row 1",
        {
            "kind": "float",
            "splits": {
                s: (np.array([[0.0], [np.nan]], np.float32), LABELS[:2]) for s in ("train", "test")
            },
        },
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    pattern, options = REFUSALS[name]
    arguments = {"kind": "image", "splits": image_splits()} | options
    with refused(pattern, DataError):
        write_dataset(tmp_path / "set", **arguments)
    assert entries(tmp_path) == []


def test_the_destination_must_be_free(tmp_path: Path) -> None:
    empty, full, file = tmp_path / "empty", tmp_path / "full", tmp_path / "file"
    empty.mkdir()
    full.mkdir()
    (full / "notes.txt").touch()
    file.touch()
    write_dataset(empty, "image", image_splits())
    for taken in (empty, full, file):
        with refused("exists; allowed a new or empty folder", DataError):
            write_dataset(taken, "image", image_splits())
    write_dataset(tmp_path / "a" / "b", "image", image_splits())
    assert entries(full) == ["notes.txt"]
    assert entries(tmp_path) == ["a", "empty", "file", "full"]


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(path: Path) -> str:
        raise OSError("no space left on device")

    monkeypatch.setattr("rhoselect.importers.writer.file_hash", no_space)
    with pytest.raises(OSError, match="no space"):
        write_dataset(tmp_path / "set", "image", image_splits())
    assert entries(tmp_path) == []
