"""Torch data sets by import path, and objects by import path."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import CPU, refused
from PIL import Image
from torch.utils.data import Dataset as TorchData
from torch.utils.data import IterableDataset

from rhoselect.config import DataConfig
from rhoselect.data import open_data
from rhoselect.data.repeatable import same
from rhoselect.errors import ConfigError, DataError
from rhoselect.importing import load_object

SIZES = {"train": 200, "holdout": 30, "test": 40}


class Squares(TorchData[Any]):
    """Point i of a split is [i, i²]; what ``broken`` names is wrong with it."""

    def __init__(self, split: str, broken: str = "", scale: float = 1.0) -> None:
        self.size, self.broken, self.scale = SIZES[split], broken, scale

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: int) -> Any:
        value = torch.tensor([place, place**2], dtype=torch.float32) * self.scale
        label: Any = place % 7
        match self.broken:
            case "dtype":
                value = value.to(torch.uint8)
            case "label":
                label = "cat"
            case "beyond" if place == 5:
                label = 99
            case "shape" if place == 5:
                value = value[:1]
            case "item":
                raise RuntimeError("disk\ngone")
            case "no pair":
                return value
            case "scalar":
                value = value[0]
            case "flip":
                value = value if torch.rand(()) < 0.5 else value.flip(0)
            case "nan":
                value = value * float("nan")
            case "seeds torch":
                torch.manual_seed(place)
                value = value + torch.rand(2)
            case "seeds numpy.random":
                np.random.seed(place)
                value = value + float(np.random.random())
            case "seeds random":
                random.seed(place)
                value = value + random.random()
            case "random label":
                label = int(torch.randint(7, ()))
            case "gap":
                label = (1, 11, 21)[place % 3]
            case "array":
                return value.numpy().astype(np.int64), np.int64(label)
        return value, label


class Named(Squares):
    classes = tuple("abcdefghi")


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


def squares(**arguments: Any) -> Any:
    return Squares(**arguments)


def named(**arguments: Any) -> Any:
    return Named(**arguments)


def without_holdout(split: str) -> Any:
    if split == "holdout":
        raise ValueError("no such split")
    return Squares(split)


def without_test(split: str) -> Any:
    if split == "test":
        raise ValueError("no such\nsplit")
    return Squares(split)


def endless(split: str) -> Any:
    return Endless()


NOT_CALLABLE = 3


def opened(name: str, **args: Any) -> Any:
    return open_data(DataConfig(dataset=f"{__name__}:{name}", args=args))


def test_points_are_read_by_global_index() -> None:
    dataset = opened("squares")
    assert dataset.splits == {"train": (0, 200), "holdout": (200, 230), "test": (230, 270)}
    assert (dataset.input_shape, dataset.classes) == ((2,), 7)
    points = dataset.split("holdout")
    batch = points.read(np.array([229, 200, 203]), CPU)
    assert batch.inputs.tolist() == [[29, 841], [0, 0], [3, 9]]
    assert batch.labels.tolist() == [1, 0, 3]
    assert points.labels(np.array([203])).tolist() == [3]
    assert points.clean_labels(points.indices) is None
    assert points.index_of(np.array([0, 2], np.uint64)).tolist() == [200, 202]
    with pytest.raises(AssertionError):
        points.read(np.array([199]), CPU)


def test_classes_by_name_absent_holdout_and_arrays() -> None:
    assert opened("named").classes == 9
    dataset = opened("without_holdout")
    assert dataset.splits == {"train": (0, 200), "test": (200, 240)}
    with refused("got 'holdout', allowed one of train, test", DataError):
        dataset.split("holdout")
    tokens = opened("squares", broken="array").split("test")
    assert tokens.read(tokens.indices, CPU).inputs.dtype == torch.int64


def test_the_fingerprint_follows_path_arguments_lengths_and_content() -> None:
    base = opened("named").fingerprint
    assert opened("named").fingerprint == base
    others = [opened("squares"), opened("named", scale=2.0), opened("without_holdout")]
    assert len({base, *(other.fingerprint for other in others)}) == 4


@pytest.mark.parametrize(
    ("broken", "pattern"),
    [
        ("dtype", "got inputs torch.uint8"),
        ("label", "items 0: got TypeError"),
        ("item", "RuntimeError: disk gone"),
        ("no pair", "items 0: got TypeError"),
        ("scalar", "got a single number"),
    ],
)
def test_bad_items_are_refused_at_open(broken: str, pattern: str) -> None:
    with refused(pattern, DataError):
        opened("squares", broken=broken)


@pytest.mark.parametrize("broken", ["flip", "random label"])
def test_random_items_are_refused_at_open(broken: str) -> None:
    with refused(r"got an(other)? item .*when item \d+ of \w+ was read again, allowed", DataError):
        opened("squares", broken=broken)


@pytest.mark.parametrize("shared", ["torch", "numpy.random", "random"])
def test_items_that_use_shared_random_numbers_are_refused_at_open(shared: str) -> None:
    """Threads read during training: such an item would change the dropout of a step."""
    with refused(f"got an item that uses the random numbers of {shared} when item", DataError):
        opened("squares", broken=f"seeds {shared}")


def test_items_of_nan_are_the_same(caplog: pytest.LogCaptureFixture) -> None:
    assert opened("squares", broken="nan").classes == 7
    assert not caplog.messages


def test_gaps_between_labels_are_told(caplog: pytest.LogCaptureFixture) -> None:
    assert opened("squares", broken="gap").classes == 22
    assert "19 of 22 classes have no point in train, whose labels are 1, 11, 21" in caplog.text


def picture(value: int) -> Any:
    return Image.new("L", (2, 2), value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, True),
        ("a", b"a"),
        (None, 0),
        (torch.zeros(2), torch.zeros(3)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64)),
        (torch.zeros(2), torch.ones(2)),
        (torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([2.0], dtype=torch.bfloat16)),
        (np.zeros(2), np.ones(2)),
        (np.array(["a", 1], object), np.array(["a", 2], object)),
        (picture(1), picture(2)),
        ({"x": 1}, {"y": 1}),
        ({"x": [torch.zeros(1), (1, 2)]}, {"x": [torch.zeros(1), (1, 3)]}),
        ([1], [1, 1]),
    ],
)
def test_what_differs_and_what_is_the_same(one: Any, other: Any) -> None:
    assert same(one, copy.deepcopy(one)) and same(other, copy.deepcopy(other))
    assert not same(one, other) and not same(other, one)


def test_nan_and_objects_of_other_types_are_the_same() -> None:
    assert same(
        [float("nan"), np.full(2, np.nan), object()], [float("nan"), np.full(2, np.nan), object()]
    )


@pytest.mark.parametrize(("broken", "pattern"), [("beyond", "label 99"), ("shape", r"input \[1\]")])
def test_bad_items_are_refused_when_read(broken: str, pattern: str) -> None:
    points = opened("named", broken=broken).split("train")
    with refused(pattern, DataError):
        points.read(np.arange(10), CPU)


def test_bad_factories_are_refused() -> None:
    with refused("test: ValueError: no such split", DataError):
        opened("without_test")
    with refused("TypeError", DataError):
        opened("squares", colour=1)
    with refused("map-style", DataError):
        opened("endless")
    with refused("data.args: got 'split'", ConfigError):
        opened("squares", split="train")


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("no_colon", "allowed 'module:name'"),
        ("a:b:c", "allowed 'module:name'"),
        ("../x:y", "allowed 'module:name'"),
        (":f", "allowed 'module:name'"),
        ("no_such_module_at_all:f", "cannot be imported"),
        (f"{__name__}:nothing", "has no 'nothing'"),
        (f"{__name__}:NOT_CALLABLE", "of type int, allowed a callable"),
    ],
)
def test_bad_import_paths_are_refused(path: str, pattern: str) -> None:
    with refused(f"some.key: got .*{pattern}", ConfigError):
        load_object(path, "some.key")


def test_dotted_names_are_found() -> None:
    assert load_object(f"{__name__}:Named.__len__", "key") is Named.__len__
