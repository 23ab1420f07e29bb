"""Points in the memory of a device: the bits that a read from the disk gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import CPU, image_splits, refused

from rhoselect.config import Config, DataConfig
from rhoselect.data import ArrowDataset, Augmentation, DatasetPoints, resident, train_points
from rhoselect.errors import ConfigError, DataError
from rhoselect.importers import write_dataset
from support import hashes, made

POINTS = 60
KINDS = {
    "image": lambda random: random.integers(0, 256, (POINTS, 3, 4, 4), np.uint8),
    "tokens": lambda random: random.integers(0, 50, (POINTS, 5), np.int64),
    "float": lambda random: random.standard_normal((POINTS, 2, 3)).astype(np.float32),
}


def dataset(folder: Path, kind: Any, inputs: np.ndarray, **more: Any) -> ArrowDataset:
    """20 points of holdout before those of train, in several shards."""
    labels = np.arange(POINTS) % 4
    splits = {"holdout": (inputs[:20], labels[:20]), "train": (inputs[20:], labels[20:])}
    write_dataset(folder, kind, {**splits, "test": (inputs, labels)}, 4, shard_rows=17, **more)
    return ArrowDataset.open(folder)


def train_of(opened: ArrowDataset, augmentation: Augmentation | None) -> DatasetPoints:
    return opened.split("train", augmentation)


@pytest.mark.parametrize("kind", ["image", "augmented", "tokens", "float"])
def test_a_read_gives_the_bits_of_the_disk(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: Any = "image" if kind == "augmented" else kind
    random = np.random.default_rng(0)
    opened = dataset(tmp_path / "set", stored, KINDS[stored](random))
    views = Augmentation(seed=1, crop_padding=2, flip=True) if kind == "augmented" else None
    disk, held = train_of(opened, views), train_of(opened, views)
    monkeypatch.setattr(resident, "PIECE_BYTES", 200)  # several pieces
    held.hold(CPU)
    monkeypatch.setattr(held, "_located", None)  # the disk is not used from now on
    for _ in range(3):
        indices = disk.index_of(random.integers(0, len(disk), 25))
        epochs = random.integers(0, 3, 25)
        expected, found = (each.read(indices, CPU, epochs) for each in (disk, held))
        assert found.inputs.dtype == expected.inputs.dtype
        assert torch.equal(found.inputs, expected.inputs)
        assert torch.equal(found.labels, expected.labels)
        found.inputs.zero_()  # a batch is its reader's own


def test_points_that_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = dataset(tmp_path / "set", "float", KINDS["float"](np.random.default_rng(0)))
    monkeypatch.setattr(resident, "_free_bytes", lambda device: 1279)
    message = r"data\.resident: .*the points take 1,280 bytes and cpu has 1,279 free, allowed .*''"
    with refused(message, ConfigError):
        points.split("train").hold(CPU)


def test_an_unknown_token_is_found_when_points_are_loaded(tmp_path: Path) -> None:
    opened = dataset(tmp_path / "set", "tokens", KINDS["tokens"](np.random.default_rng(0)))
    opened.vocabulary = 3
    with refused(r"got token id \d+ in point \d+, allowed 0 to 2", DataError):
        opened.split("train").hold(CPU)


def test_encoded_images_are_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", "image", images(), 5, encoding="png")
    data = DataConfig(path=str(tmp_path / "set"), resident="device")
    with refused(r"data\.resident: .*the images are png files, allowed .*--encoding", ConfigError):
        train_points(Config(data=data), ArrowDataset.open(tmp_path / "set"))


def images() -> dict[str, Any]:
    splits = image_splits()
    return {name: (inputs[:, :1], labels) for name, (inputs, labels) in splits.items()}


@pytest.mark.long
def test_a_run_selects_the_same(tiny_config: Path, tmp_path: Path) -> None:
    runs = tmp_path / "disk", tmp_path / "device"
    for run in runs:
        sets = ("--set", "data.resident=device") if run.name == "device" else ()
        made("train", tiny_config, "--run-dir", run, "--workers", "0", *sets)
    assert hashes(runs[0]) == hashes(runs[1])
