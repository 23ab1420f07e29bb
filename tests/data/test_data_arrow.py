"""Data sets on disk: what goes in comes out, and what is broken is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from data_helpers import CPU, image_splits, refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rhoselect.config import DataConfig
from rhoselect.data import ArrowDataset, open_data
from rhoselect.errors import DataError
from rhoselect.importers import write_dataset
from rhoselect.types import Points

KINDS = {
    "image": lambda random, n: random.integers(0, 256, (n, 3, 2, 4), np.uint8),
    "tokens": lambda random, n: random.integers(-(2**62), 2**62, (n, 5), np.int64),
    "float": lambda random, n: random.standard_normal((n, 2, 3)).astype(np.float32),
}


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(sorted(KINDS)),
    sizes=st.tuples(*[st.integers(1, 40)] * 3),
    shard_rows=st.integers(1, 50),
    seed=st.integers(0, 2**32),
    noise=st.sampled_from([0.0, 0.4]),
)
def test_gather_returns_the_points_written(
    tmp_path_factory: pytest.TempPathFactory,
    kind: Any,
    sizes: tuple[int, int, int],
    shard_rows: int,
    seed: int,
    noise: float,
) -> None:
    random = np.random.default_rng(seed)
    splits = {
        name: (KINDS[kind](random, n), random.integers(0, 4, n))
        for name, n in zip(("train", "holdout", "test"), sizes, strict=True)
    }
    path = tmp_path_factory.mktemp("data") / "set"
    write_dataset(path, kind, splits, 4, label_noise=noise, shard_rows=shard_rows)
    dataset = ArrowDataset.open(path)
    dataset.verify()
    inputs = np.concatenate([x for x, _ in splits.values()])
    truth = np.concatenate([y for _, y in splits.values()])
    start = 0
    for name, size in zip(splits, sizes, strict=True):
        points = dataset.split(name)
        assert (points.start, points.stop, len(points)) == (start, start + size, size)
        indices = points.index_of(random.integers(0, size, 60).astype(np.uint64))
        batch = points.read(indices, CPU)
        expected = torch.from_numpy(inputs[indices])
        if kind == "image":
            mean = torch.tensor(dataset.manifest.mean).reshape(-1, 1, 1)
            std = torch.tensor(dataset.manifest.std).reshape(-1, 1, 1)
            expected = (expected.float() / 255 - mean) / std
        assert batch.inputs.dtype == expected.dtype
        assert torch.equal(batch.inputs, expected)
        assert np.array_equal(batch.labels.numpy(), points.labels(indices))
        clean = points.clean_labels(indices)
        assert np.array_equal(truth[indices], points.labels(indices) if clean is None else clean)
        assert (clean is None) == (noise == 0)
        start += size


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "set", "image", image_splits(), label_noise=0.3, shard_rows=20)
    return tmp_path / "set"


def test_points_satisfy_the_protocol(folder: Path) -> None:
    dataset = open_data(DataConfig(path=str(folder)))
    points: Points = dataset.split("train")
    assert dataset.input_shape == (2, 4, 3)
    assert dataset.classes == 5
    assert points.read(np.array([], np.int64), CPU).inputs.shape == (0, 2, 4, 3)
    assert np.array_equal(dataset.split("test").indices, np.arange(50, 70))
    with pytest.raises(AssertionError):
        points.read(np.array([50]), CPU)
    with refused("split: got 'holdout'.*train, test", DataError):
        dataset.split("holdout")


def test_images_are_normalised_on_the_train_split(folder: Path) -> None:
    points = ArrowDataset.open(folder).split("train")
    inputs = points.read(points.indices, CPU).inputs
    assert torch.allclose(inputs.mean((0, 2, 3)), torch.zeros(2), atol=1e-5)
    assert torch.allclose(inputs.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-5)


def test_a_point_has_the_same_bits_in_any_batch(folder: Path) -> None:
    points = ArrowDataset.open(folder).split("train")
    whole = points.read(points.indices, CPU).inputs
    for index in points.indices:
        assert torch.equal(points.read(np.array([index]), CPU).inputs[0], whole[index])


def test_a_constant_channel_stays_finite(tmp_path: Path) -> None:
    splits = {
        name: (np.full((3, 1, 2, 2), 7, np.uint8), np.arange(3)) for name in ("train", "test")
    }
    write_dataset(tmp_path / "set", "image", splits)
    points = ArrowDataset.open(tmp_path / "set").split("train")
    assert torch.isfinite(points.read(points.indices, CPU).inputs).all()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Two threads on cores that others use too wait for one another longer than a read takes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_reading_320_points_is_quick(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (5000, 1, 28, 28), np.uint8), np.arange(5000) % 10
    write_dataset(tmp_path / "set", "image", dict.fromkeys(("train", "test"), (images, labels)))
    points = ArrowDataset.open(tmp_path / "set").split("train")
    indices = random.permutation(points.indices)[:320]
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        points.read(indices, CPU)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1e-3


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tree = json.loads((path / "manifest.json").read_text())
    change(tree)
    (path / "manifest.json").write_text(json.dumps(tree))


def rewrite(path: Path, **columns: Any) -> None:
    """Put another Arrow file in the place of the first shard, the manifest's size agreeing."""
    file = path / "00000.arrow"
    with pa.ipc.open_file(file) as reader:
        table = reader.read_all()
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        if values is None:
            table = table.remove_column(place)
        else:
            table = table.set_column(place, name, pa.array(values, table.schema.types[place]))
    with pa.ipc.new_file(str(file), table.schema) as writer:
        writer.write_table(table)
    edit(path, lambda tree: tree["shards"][0].update(bytes=file.stat().st_size))


def truncate(path: Path) -> None:
    file = path / "00001.arrow"
    file.write_bytes(file.read_bytes()[:-100])


def truncate_and_agree(path: Path) -> None:
    truncate(path)
    size = (path / "00001.arrow").stat().st_size
    edit(path, lambda tree: tree["shards"][1].update(bytes=size))


def scramble(path: Path) -> None:
    file = path / "00001.arrow"
    file.write_bytes(bytes(file.stat().st_size))


def copies(path: Path, points: int = 50, copied: int = 10, seed: int = 0) -> None:
    one = {"times": 2, "points": points, "copied": copied, "seed": seed}
    edit(path, lambda tree: tree.update(duplicates=one))


BREAKAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "manifest missing": ("no manifest.json", lambda p: (p / "manifest.json").unlink()),
    "manifest no JSON": ("malformed", lambda p: (p / "manifest.json").write_text('{"format": 1,')),
    "manifest empty": ("malformed", lambda p: (p / "manifest.json").write_text("")),
    "format of tomorrow": ("malformed at format", lambda p: edit(p, lambda t: t.update(format=2))),
    "unknown key": ("malformed at colour", lambda p: edit(p, lambda t: t.update(colour=1))),
    "key missing": ("malformed at classes", lambda p: edit(p, lambda t: t.pop("classes"))),
    "path in a shard": (
        "malformed at shards.0.file",
        lambda p: edit(p, lambda t: t["shards"][0].update(file="../x.arrow")),
    ),
    "std of zero": ("malformed at std", lambda p: edit(p, lambda t: t.update(std=[1.0, 0.0]))),
    "means too few": ("mean and std: got 1", lambda p: edit(p, lambda t: t.update(mean=[0.5]))),
    "shard missing": ("missing", lambda p: (p / "00001.arrow").unlink()),
    "shard truncated": ("got .* bytes", truncate),
    "shard truncated, size agreeing": ("not an Arrow file", truncate_and_agree),
    "shard scrambled": ("not an Arrow file", scramble),
    "rows differ": (
        "got 20 rows, allowed 19",
        lambda p: edit(
            p, lambda t: (t["shards"][0].update(rows=19), t.update(splits={}, origins=None))
        ),
    ),
    "shape differs": (
        "got columns inputs: fixed_size_binary",
        lambda p: edit(p, lambda t: t["inputs"].update(shape=[2, 4, 4])),
    ),
    "shape beyond": (
        "got 17179869184 elements",
        lambda p: edit(p, lambda t: t["inputs"].update(shape=[2, 2**33])),
    ),
    "copies of more than there are": ("51 copied of 50", lambda p: copies(p, 50, 51)),
    "copies that are not there": ("60 rows in all, allowed the 50 of train", lambda p: copies(p)),
    "seed beyond": ("malformed at duplicates.seed", lambda p: copies(p, seed=2**64)),
    "column missing": ("got columns", lambda p: rewrite(p, clean_label=None)),
    "label beyond": ("got label 5, allowed 0 to 4", lambda p: rewrite(p, label=[5] * 20)),
    "label negative": ("got label -1", lambda p: rewrite(p, label=[-1] * 20)),
    "clean label beyond": ("got label 9", lambda p: rewrite(p, clean_label=[9] * 20)),
    "label null": ("missing values", lambda p: rewrite(p, label=[None] * 20)),
    "split beyond": (
        r"splits.test: got \[50, 71\)",
        lambda p: edit(p, lambda t: t["splits"].update(test=[50, 71])),
    ),
    "split empty": ("splits.test", lambda p: edit(p, lambda t: t["splits"].update(test=[50, 50]))),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_broken_data_set_is_refused_at_open(folder: Path, name: str) -> None:
    pattern, break_it = BREAKAGES[name]
    break_it(folder)
    with refused(pattern, DataError):
        ArrowDataset.open(folder)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with refused("no such folder", DataError):
        ArrowDataset.open(tmp_path / "nowhere")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 2**20), bit=st.integers(0, 7))
def test_a_flipped_bit_opens_or_is_refused_and_is_found_by_verify(
    folder: Path, place: int, bit: int
) -> None:
    file = folder / "00000.arrow"
    sound = file.read_bytes()
    broken = bytearray(sound)
    broken[place % len(sound)] ^= 1 << bit
    file.write_bytes(broken)
    try:
        with pytest.raises(DataError):
            ArrowDataset.open(folder).verify()
    finally:
        file.write_bytes(sound)


def test_verify_finds_another_manifest(folder: Path) -> None:
    edit(folder, lambda tree: tree["splits"].update(test=[51, 70]))
    with refused("fingerprint", DataError):
        ArrowDataset.open(folder).verify()
