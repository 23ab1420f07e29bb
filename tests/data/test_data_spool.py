"""`rhoctl data spool`: the points of an iterable data set, read by index from a folder."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data_helpers import CPU
from torch.utils.data import IterableDataset

from rhoselect.config import parse
from rhoselect.data import open_data
from rhoselect.data.hugging_face import rows
from rhoselect.importers import spool
from support import hashes, made

LIMIT = 300


class Stream(IterableDataset[Any]):
    """An endless stream of sequences of 3 to 8 tokens."""

    def __init__(self, split: str, seed: int = 0) -> None:
        self._seed = [seed, len(split)]

    def __iter__(self) -> Iterator[Any]:
        random = np.random.default_rng(self._seed)
        while True:
            first, length = random.integers(0, 12, 2)
            yield torch.arange(first, first + 3 + length % 6) % 12


class ByIndex:
    """The first points of the stream, in memory."""

    def __init__(self, split: str, seed: int = 0) -> None:
        self._points = list(itertools.islice(Stream(split, seed), LIMIT))

    def __len__(self) -> int:
        return LIMIT

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {"input_ids": self._points[place]}


def nests(split: str) -> Iterator[dict[str, Any]]:
    """A generator, which says late that it has no holdout."""
    if split == "holdout":
        raise KeyError(split)
    for row in range(5):
        yield {
            "pixels": torch.arange(12).reshape(3, 2, 2) / (row + 1),
            "ids": list(range(row + 1)),
            "text": f"point {row}",
            "labels": np.int64(row % 2),
        }


def pairs(split: str) -> Iterator[tuple[Any, int]]:
    for row in range(2 * len(split)):
        yield np.full(3, row, np.float64), row % 2


def test_a_run_on_the_folder_is_a_run_on_the_same_points_by_index(tmp_path: Path) -> None:
    told = made(
        *("data", "spool", "test_data_spool:Stream", tmp_path / "stream"),
        *("--limit", LIMIT, "--set", "data.args.seed=7"),
    ).out
    assert "train        300 points, the limit\n" in told
    found = []
    folder = f"dataset = 'rhoselect.data.hugging_face:rows', args = {{path = '{tmp_path}/stream'}}"
    for data in (folder, "dataset = 'test_data_spool:ByIndex', args = {seed = 7}"):
        run = tmp_path / str(len(found))
        sets = (
            *(f"data={{{data}}}", "task.name=causal_lm", "model.factory=task_code:Recurrent"),
            *("selection.function=loss", "selection.n_b=4", "selection.n_B=16"),
            *("selection.chunk=8", "trainer.steps=4", "metrics.port=-1", "scorer.precision=fp32"),
        )
        made("train", "--run-dir", run, *(word for each in sets for word in ("--set", each)))
        found.append(hashes(run))
    assert found[0] == found[1]


def test_columns_are_those_of_the_examples(tmp_path: Path) -> None:
    assert spool("test_data_spool:nests", {}, tmp_path / "nests", 4) == {"train": 4, "test": 4}
    assert spool("test_data_spool:pairs", {}, tmp_path / "pairs", 99) == {
        "train": 10, "holdout": 14, "test": 8
    }  # fmt: skip
    state = json.loads((tmp_path / "nests" / "train" / "state.json").read_text())
    assert len(state["_fingerprint"]) == 64
    point = rows("train", str(tmp_path / "nests"), "pixels,ids")[3]
    assert point["ids"].tolist() == [0, 1, 2, 3] and point["labels"] == 1
    assert torch.equal(point["pixels"], torch.arange(12).reshape(3, 2, 2) / 4)
    args = {"path": str(tmp_path / "pairs"), "inputs": "inputs"}
    dataset = open_data(
        parse({"data": {"dataset": "rhoselect.data.hugging_face:rows", "args": args}}).data
    )
    batch = dataset.split("holdout").read(np.array([13]), CPU)
    assert batch.inputs.tolist() == [[3.0, 3.0, 3.0]] and batch.labels.tolist() == [1]


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    prints = []
    for number, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(number)
        spool("test_data_spool:Stream", {"seed": seed}, folder, 20)
        prints.append(json.loads((folder / "train" / "state.json").read_text())["_fingerprint"])
    assert prints[0] == prints[1] != prints[2]
