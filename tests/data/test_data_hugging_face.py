"""Data sets of Hugging Face in place, against what the libraries themselves read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import CPU, refused

from hub import SIZES, WORDS, reviews, saved, word_tokenizer
from rhoselect.config import DataConfig
from rhoselect.data import open_data
from rhoselect.errors import ConfigError, DataError
from rhoselect.tasks import Classification, Task
from rhoselect.types import Batch, Losses

MODULE = "rhoselect.data.hugging_face"


class Plain(Task):
    """Takes what torch's collate makes of any examples."""

    def losses(self, model: Any, batch: Batch) -> Losses:
        raise NotImplementedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With reviews/, and a tokenizer of its words in words/."""
    made = tmp_path_factory.mktemp("hub")
    reviews(made / "reviews")
    word_tokenizer(made / "words")
    return made


def opened(name: str, task: Task | None = None, vocabulary: int | None = None, **args: Any) -> Any:
    path = f"rhoselect.data.packing:{name}" if name == "packed" else f"{MODULE}:{name}"
    config = DataConfig(
        dataset=path, args={k: v if isinstance(v, int) else str(v) for k, v in args.items()}
    )
    return open_data(config, vocabulary, task or Classification())


def texts(folder: Path, **args: Any) -> Any:
    return opened("texts", path=folder / "reviews", tokenizer=folder / "words", **args)


def test_texts_are_tokenised_and_padded_in_their_batch(folder: Path) -> None:
    import datasets
    import transformers

    dataset = texts(folder, length=4)
    assert {name: stop - start for name, (start, stop) in dataset.splits.items()} == {
        "train": SIZES["train"], "holdout": SIZES["validation"], "test": SIZES["test"]
    }  # fmt: skip
    assert (dataset.class_names, dataset.input_shape, dataset.ids) == (("bad", "good"), (), 12)
    indices = np.array([3, 0, 17, 1])
    batch = dataset.split("train").read(indices, CPU)
    rows = datasets.load_from_disk(str(folder / "reviews" / "train"))[indices]
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder / "words"))
    whole = tokenizer(
        rows["text"], truncation=True, max_length=4, padding=True, return_tensors="pt"
    )
    assert set(batch.inputs) == set(whole)
    for name, tensor in batch.inputs.items():
        assert torch.equal(tensor, whole[name]), name
    assert batch.labels.tolist() == rows["label"]
    assert dataset.split("train").labels(indices).tolist() == rows["label"]


def test_the_fingerprint_is_of_rows_tokenizer_and_what_is_made_of_them(folder: Path) -> None:
    base = texts(folder).fingerprint
    moved = folder / "elsewhere"
    shutil.copytree(folder / "reviews", moved / "reviews")
    shutil.copytree(folder / "words", moved / "words")
    assert texts(moved).fingerprint == base
    word_tokenizer(moved / "words", WORDS[::-1])
    other_tokenizer = texts(moved).fingerprint
    word_tokenizer(moved / "words")
    with (moved / "words" / "tokenizer_config.json").open("a") as file:
        file.write("\n")
    other_file = texts(moved).fingerprint
    shorter = texts(folder, length=100).fingerprint
    assert len({base, other_tokenizer, other_file, shorter}) == 4


def test_rows_are_pairs_or_dicts_of_columns(tmp_path: Path) -> None:
    splits = {
        name: {
            "pixels": [[row / 8, 0.5] for row in range(size)],
            "ids": [list(range(row % 3 + 1)) for row in range(size)],
            "age": list(range(size)),
            "name": ["x"] * size,
            "label": [row % 5 for row in range(size)],
        }
        for name, size in (("train", 20), ("validation", 8))
    }
    path = saved(tmp_path / "rows", splits)
    pairs = opened("rows", path=path, inputs="pixels")
    assert list(pairs.splits) == ["train", "test"], "without a test split, validation is it"
    assert (pairs.input_shape, pairs.classes) == ((2,), 5)
    batch = pairs.split("test").read(np.array([23, 20]), CPU)
    assert batch.inputs.tolist() == [[3 / 8, 0.5], [0.0, 0.5]] and batch.labels.tolist() == [3, 0]
    dicts = opened("rows", path=path, inputs="pixels, age")
    content = dicts.split("train").read(np.array([7]), CPU).content
    assert {name: value.tolist() for name, value in content.items()} == {
        "pixels": [[7 / 8, 0.5]], "age": [7], "labels": [2]
    }  # fmt: skip
    assert pairs.fingerprint != dicts.fingerprint
    with refused(r"got column 'nothing', allowed pixels, ids, age, name, label", DataError):
        opened("rows", path=path, inputs="nothing")


def test_pictures_are_floats_with_channels_first(tmp_path: Path) -> None:
    import datasets
    from PIL import Image

    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    rows = {"image": [Image.fromarray(pixels)] * 4, "label": [0, 1, 0, 1]}
    path = saved(tmp_path / "pictures", {"train": rows, "test": rows}, image=datasets.Image())
    dataset = opened("rows", path=path, inputs="image")
    assert dataset.input_shape == (3, 2, 4)
    first = dataset.split("train").read(np.array([0]), CPU).inputs[0]
    assert torch.equal(first, torch.from_numpy(pixels).permute(2, 0, 1) / 255)


def documents(count: int) -> list[list[int]]:
    return [[10 * number + k for k in range(number % 4)] for number in range(count)]


@pytest.mark.parametrize("length", [1, 5, 16])
def test_packed_blocks_are_the_documents_one_after_the_other(tmp_path: Path, length: int) -> None:
    splits = {"train": {"input_ids": documents(30)}, "test": {"input_ids": documents(12)}}
    dataset = opened("packed", Plain(), path=saved(tmp_path / "ids", splits), length=length)
    for name, rows in splits.items():
        tokens = [token for document in rows["input_ids"] for token in document]
        points = dataset.split(name)
        assert len(points) == len(tokens) // length
        content = points.read(points.indices, CPU).content
        kept = len(points) * length
        assert content["input_ids"].flatten().tolist() == tokens[:kept]
        owners = np.array([t // 10 for t in tokens[:kept]]).reshape(-1, length)
        numbers = content["document_ids"].numpy()
        assert (numbers.min(axis=1) >= 0).all() and (numbers[:, 0] == 0).all()
        assert np.array_equal(np.diff(owners) != 0, np.diff(numbers) != 0)


def test_files_of_parquet_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name in ("train", "test"):
        rows = {"age": list(range(12)), "label": [row % 2 for row in range(12)]}
        datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "files" / f"{name}.parquet"))
    dataset = opened("rows", path=tmp_path / "files")
    assert dataset.split("train").read(np.array([3]), CPU).content["age"].tolist() == [3]
    assert dataset.classes == 2


def test_what_is_no_such_data_set_is_told_at_open(folder: Path, tmp_path: Path) -> None:
    import datasets

    rows = {"text": ["a", "b", None], "label": [0, 1, 0]}
    one = tmp_path / "one"
    datasets.Dataset.from_dict(rows).save_to_disk(str(one))
    with refused("got a Dataset without splits, allowed a DatasetDict", DataError):
        opened("rows", path=one)
    none = saved(tmp_path / "none", {"train": rows, "test": rows})
    with refused(r"item 2( of train)?: got NoneType, allowed one or two texts", DataError):
        opened("texts", path=none, tokenizer=folder / "words")
    with refused("got columns of texts and labels alone; name one in data.args.text", DataError):
        opened("rows", path=none)
    with refused("got splits train, 'test' is missing", DataError):
        opened("rows", path=saved(tmp_path / "train", {"train": {"age": [1, 2]}}))
    with refused("data.args.column: got 'input_ids', allowed lists of token ids", DataError):
        opened("packed", Plain(), path=none)
    with refused("data.args.length: got 512, allowed 1 to 3, the tokens of 'train'", ConfigError):
        ids = {"input_ids": [[1, 2], [3]]}
        opened("packed", Plain(), path=saved(tmp_path / "ids", {"train": ids, "test": ids}))
    with refused(r"got token ids from 0 to 11, allowed those below 10, which the model", DataError):
        texts(folder, vocabulary=10)
    with refused(
        r"tokenizer: got '.*reviews' \(.*\), allowed a folder with a tokenizer", DataError
    ):
        opened("texts", path=folder / "reviews", tokenizer=folder / "reviews")
