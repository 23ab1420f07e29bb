"""docs/own-data.md, followed to the letter."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hub import CLASSES, SIZES, reviews, word_tokenizer
from rhoselect.config import load
from rhoselect.data import ArrowDataset, open_data
from support import made

PAGE = (Path(__file__).parent.parent / "docs" / "own-data.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


def commands(block: int) -> list[list[str]]:
    lines = blocks("sh")[block].replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_from_a_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few steps, and one pass for the irreducible losses."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    words = {"good": ["gem", "great", "joy"], "bad": ["dull", "bore", "flop"]}
    rows = []
    for row in range(800):
        label = ("good", "bad")[row % 2]
        text = " ".join(random.choice(words[label] + ["film", "plot", "a, b"], 5))
        rows.append((text, label))
    lines = [f'"{text}",{label}' for text, label in rows]
    Path("reviews.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    Path("reviews.toml").write_text(blocks("toml")[0])
    imported, fit, train, export = commands(0)
    assert "classes      2: bad, good\n" in made(*imported).out
    small = ("--set", "model.args.width=16", "--set", "model.args.layers=1")
    made(*fit, "--epochs", "1", *small)
    made(*train, "--set", "trainer.steps=3", "--set", "metrics.port=-1", *small)
    made(*export)
    for point in pq.read_table("points.parquet").to_pylist():
        assert rows[point["source_row"]][1] == point["label_name"]


def test_from_a_torch_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_data.py").write_text(blocks("python")[0])
    (tmp_path / "run.toml").write_text(blocks("toml")[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    dataset = open_data(load(tmp_path / "run.toml").data)
    assert [stop - start for start, stop in dataset.splits.values()] == [4000, 2000, 1000]
    assert dataset.classes == 5 and dataset.class_names is None
    found = dataset.split("test").origins(np.array([6003]))
    assert (found.source[0], found.row[0]) == ("test", 3)
    [fit] = commands(1)
    made(*fit, "--epochs", "1", "--set", "model.args.width=16")
    made("train", "run.toml", "--set", "il.table=il.parquet", "--set", "trainer.steps=3")


def test_from_a_hugging_face_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained, with irreducible losses, a report and an export; moved, it is the same data set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    reviews(Path("reviews"))
    word_tokenizer(Path("tokenizer"))
    Path("my_model.py").write_text(blocks("python")[2])
    Path("run.toml").write_text(blocks("toml")[2])
    config = load("run.toml").data
    args = [f"data.args.{key}={value}" for key, value in config.args.items()]
    keys = [word for key in args for word in ("--set", key)]
    model = ("--model", "my_model:classifier", "--epochs", "1", "--batch", "8")
    made("il", "fit", "--data", str(config.dataset), *keys, "--out", "il.parquet", *model)
    words = ("--set", "trainer.steps=2", "--set", "il.table=il.parquet")
    made(
        "train",
        "run.toml",
        "--run-dir",
        "run",
        *words,
        "--set",
        "selection.function=reducible_loss",
    )
    made("report", "run")
    made("export", "run", "--out", "points.parquet")
    point = pq.read_table("points.parquet").to_pylist()[-1]
    assert (point["source"], point["source_row"]) == ("train", SIZES["train"] - 1)
    assert point["label_name"] == CLASSES[point["label"]]


def test_arrays_written_to_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inputs, labels = np.zeros((10, 3), np.float32), np.arange(10) % 2
    names = {"x_train": inputs, "y_train": labels, "x_test": inputs, "y_test": labels}
    exec(blocks("python")[1], names)
    assert ArrowDataset.open("data/mine").class_names == ("cat", "dog")
