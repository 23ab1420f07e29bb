"""What an import puts in: structured noise, clean holdouts, relevance, ambiguity, duplicates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import CPU, entries, idx_bytes, refused

from rhoselect.data import ArrowDataset
from rhoselect.errors import DataError
from rhoselect.importers import write_dataset
from support import made, rhoctl

N, K = 10_000, 10
LABELS = np.arange(N) % K


def named(sizes: dict[str, int] | None = None) -> dict[str, Any]:
    """Floats that name their point: split number x 1e5 + row."""
    sizes = sizes or {"train": N, "test": N // 2}
    return {
        split: (np.arange(n, dtype=np.float32)[:, None] + 1e5 * number, np.arange(n) % K)
        for number, (split, n) in enumerate(sizes.items())
    }


def written(path: Path, splits: dict[str, Any] | None = None, **recipe: Any) -> ArrowDataset:
    write_dataset(path, "float", splits or named(), **recipe)
    return ArrowDataset.open(path)


def columns(dataset: ArrowDataset, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Names, labels and clean labels (without noise, the labels) of a split."""
    points = dataset.split(split)
    batch = points.read(points.indices, CPU)
    clean = points.clean_labels(points.indices)
    labels = batch.labels.numpy()
    return batch.inputs[:, 0].numpy(), labels, labels if clean is None else clean


def test_structured_noise_goes_from_a_class_to_its_pair_alone(tmp_path: Path) -> None:
    pairs = ((6, 0), (2, 4), (4, 2))
    dataset = written(tmp_path / "set", label_noise=0.5, noise_pairs=pairs)
    assert dataset.manifest.noise_pairs == pairs
    _, labels, clean = columns(dataset, "train")
    assert np.array_equal(clean, LABELS)
    for source, target in pairs:
        here = labels[clean == source]
        assert set(here.tolist()) == {source, target}
        assert abs((here == target).mean() - 0.5) < 5 * np.sqrt(0.25 / (N / K))
    untouched = ~np.isin(clean, [6, 2, 4])
    assert np.array_equal(labels[untouched], clean[untouched])
    assert np.array_equal(*columns(dataset, "test")[1:])


@pytest.mark.parametrize("source_has_holdout", [False, True])
def test_a_clean_holdout_leaves_train_as_it_is(tmp_path: Path, source_has_holdout: bool) -> None:
    splits, holdout = named(), 0.3
    if source_has_holdout:
        splits, holdout = named({"train": N, "holdout": N, "test": N}), 0.0
    options = {"label_noise": 0.2, "holdout": holdout, "noise_seed": 5}
    noisy = written(tmp_path / "noisy", splits, **options)
    clean = written(tmp_path / "clean", splits, **options, holdout_noise=0.0)
    less = written(tmp_path / "less", splits, **options, holdout_noise=0.1)
    for dataset in (clean, less):
        for one, other in zip(columns(dataset, "train"), columns(noisy, "train"), strict=True):
            assert np.array_equal(one, other)
        assert np.array_equal(columns(dataset, "holdout")[0], columns(noisy, "holdout")[0])
    wrong = {}
    for name, dataset in {"noisy": noisy, "less": less, "clean": clean}.items():
        _, labels, true = columns(dataset, "holdout")
        wrong[name] = labels != true
    assert not wrong["clean"].any()
    assert 0.07 < wrong["less"].mean() < 0.13 and 0.17 < wrong["noisy"].mean() < 0.23
    assert wrong["noisy"][wrong["less"]].all(), "less noise is a part of more"


def test_relevance_gives_the_papers_mix(tmp_path: Path) -> None:
    """2 of 10 classes in full and 6.25% of the others: 80% of the data from 20% of the classes."""
    dataset = written(tmp_path / "set", relevance=(2, 0.0625), label_noise=0.1, holdout=0.5)
    relevant = dataset.manifest.relevant_classes
    assert relevant is not None and len(set(relevant)) == 2
    for split in ("train", "holdout", "test"):
        _, _, clean = columns(dataset, split)
        counts = np.bincount(clean, minlength=K)
        full = counts[list(relevant)]
        others = np.delete(counts, relevant)
        assert abs(others / full.mean() - 0.0625).max() < 0.02
        assert full.sum() / counts.sum() == pytest.approx(0.8, abs=0.02)
        points = dataset.split(split)
        share = points.relevant(points.indices)
        assert share is not None
        assert np.array_equal(share, np.isin(clean, relevant)), "by true label"
    other = written(tmp_path / "seed", relevance=(2, 0.0625), noise_seed=1)
    assert other.manifest.relevant_classes != relevant


def test_relevance_of_train_alone_leaves_a_balanced_holdout(tmp_path: Path) -> None:
    dataset = written(
        tmp_path / "set", relevance=(2, 0.06), holdout=0.5, relevance_splits=("train",)
    )
    assert len(dataset.split("holdout")) == N // 2 and len(dataset.split("test")) == N // 2
    assert len(dataset.split("train")) < N // 4
    assert written(tmp_path / "plain").split("train").relevant(np.arange(3)) is None


@pytest.mark.parametrize(("times", "share"), [(5, 1.0), (2, 1.0), (5, 0.2)])
def test_duplicates_are_there_that_often_and_know_their_original(
    tmp_path: Path, times: int, share: float
) -> None:
    dataset = written(
        tmp_path / "set", duplicates=times, duplicate_share=share, label_noise=0.2, holdout=0.1
    )
    points = dataset.split("train")
    names, labels, _ = columns(dataset, "train")
    found, counts = np.unique(names, return_counts=True)
    n = N - round(0.1 * N)
    assert len(found) == n
    copied = round(share * n)
    assert sorted(np.unique(counts)) == sorted({1, times} if share < 1 else {times})
    assert (counts == times).sum() == copied
    originals = points.originals(points.indices)
    assert np.array_equal(np.sort(np.unique(originals)), np.arange(n))
    assert np.array_equal(names[originals], names)
    assert np.array_equal(labels[originals], labels), "noise was put in before"
    assert len(dataset.split("holdout")) == N - n
    holdout = dataset.split("holdout").indices
    assert np.array_equal(dataset.split("holdout").originals(holdout), holdout)


def test_ambiguous_points_are_means_of_two_classes_with_either_label(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (400, 1, 3, 3), np.uint8)
    splits = {s: (images, np.arange(400) % 4) for s in ("train", "test")}
    options = {"ambiguous": 0.5, "label_noise": 0.1, "holdout": 0.25, "duplicates": 2}
    write_dataset(tmp_path / "set", "image", splits, **options)
    dataset = ArrowDataset.open(tmp_path / "set")
    assert dataset.splits == {"train": (0, 900), "holdout": (900, 1050), "test": (1050, 1450)}
    m = dataset.manifest
    for split, before, count in (("train", 300, 150), ("holdout", 100, 50)):
        points = dataset.split(split)
        indices = points.first(before + count)
        assert points.ambiguous(indices).tolist() == [False] * before + [True] * count
        batch = points.read(indices, CPU)
        raw = np.round((batch.inputs.numpy() * m.std[0] + m.mean[0]) * 255).astype(int)
        flat, labels = raw.reshape(len(raw), -1), points.clean_labels(indices)
        assert labels is not None
        sums = (flat[:before, None] + flat[None, :before]) // 2
        for place in range(before, before + 5):
            pairs = np.argwhere((sums == flat[place]).all(-1))
            assert any(
                labels[a] != labels[b] and labels[place] in (labels[a], labels[b]) for a, b in pairs
            )
    train = dataset.split("train")
    assert (
        train.ambiguous(np.arange(450, 900)).tolist()
        == train.ambiguous(train.originals(np.arange(450, 900))).tolist()
    )
    assert not dataset.split("test").ambiguous(dataset.split("test").indices).any()
    clean = train.clean_labels(np.arange(300, 450))
    assert np.array_equal(clean, train.labels(np.arange(300, 450))), "ambiguity is no corruption"


def test_options_do_not_change_each_others_draws_and_a_seed_gives_the_same(tmp_path: Path) -> None:
    full = {
        "label_noise": 0.2,
        "holdout": 0.3,
        "relevance": (3, 0.5),
        "ambiguous": 0.1,
        "duplicates": 2,
        "duplicate_share": 0.5,
    }
    one, two = (written(tmp_path / name, **full) for name in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    plain = written(tmp_path / "plain", label_noise=0.2, holdout=0.3)
    names, labels, _ = columns(plain, "train")
    known = dict(zip(names.tolist(), labels.tolist(), strict=True))
    points = one.split("train")
    ordinary = ~points.ambiguous(points.indices)
    names, labels, _ = columns(one, "train")
    assert ordinary.sum() > 1000
    assert [known[name] for name in names[ordinary].tolist()] == labels[ordinary].tolist()


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "pairs without noise": ("pairs without label noise", {"noise_pairs": ((0, 1),)}),
    "pair twice": ("noise pairs: got", {"label_noise": 0.5, "noise_pairs": ((0, 1), (0, 2))}),
    "pair of one": ("noise pairs: got", {"label_noise": 0.5, "noise_pairs": ((1, 1),)}),
    "pair beyond": ("allowed classes 0 to 9", {"label_noise": 0.5, "noise_pairs": ((0, 10),)}),
    "holdout noise": ("holdout noise: got 1", {"holdout_noise": 1.0}),
    "holdout noise without one": ("there is no holdout; give", {"holdout_noise": 0.0}),
    "pair below": ("noise pairs: got", {"label_noise": 0.5, "noise_pairs": ((-1, 1),)}),
    "all relevant": ("got 10 classes in full, allowed 1 to 9", {"relevance": (10, 0.5)}),
    "relevance share": ("relevance: got", {"relevance": (2, 0.0)}),
    "relevance split": ("splits: got 'valid'", {"relevance_splits": ("valid",)}),
    "duplicates": ("duplicates: got 0", {"duplicates": 0}),
    "duplicate share": ("duplicates: got 2 of a share 0", {"duplicates": 2, "duplicate_share": 0}),
    "ambiguous": ("ambiguous: got -1", {"ambiguous": -1}),
}


@pytest.mark.parametrize("name", BAD)
def test_recipes_that_make_no_sense_are_refused(tmp_path: Path, name: str) -> None:
    pattern, recipe = BAD[name]
    with refused(pattern, DataError):
        written(tmp_path / "set", **recipe)
    assert entries(tmp_path) == []


def test_ambiguous_tokens_are_refused(tmp_path: Path) -> None:
    tokens = {s: (np.ones((4, 3), np.int64), np.arange(4)) for s in ("train", "test")}
    with refused("ambiguous: got inputs without a mean", DataError):
        write_dataset(tmp_path / "set", "tokens", tokens, ambiguous=0.5)


@pytest.fixture
def idx_source(tmp_path: Path) -> Path:
    source = tmp_path / "idx"
    source.mkdir()
    for split, n in (("train", 200), ("t10k", 100)):
        images = np.zeros((n, 2, 2), np.uint8)
        (source / f"{split}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        labels = (np.arange(n) % 10).astype(np.uint8)
        (source / f"{split}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return source


def test_the_command_shows_what_it_put_in(idx_source: Path, tmp_path: Path) -> None:
    mix = ("--relevance", "2:0.5", "--duplicates", "5:0.5", "--ambiguous", "0.1")
    noise = ("--label-noise", "0.5", "--noise-pairs", "6:0,4:2", "--holdout-noise", "0")
    holdout = ("--holdout", "0.5", "--relevance-splits", "train,test")
    command = ("data", "import", "idx", idx_source, tmp_path / "set")
    shown = made(*command, *mix, *noise, *holdout).out
    assert "0.5, between 6 to 0, 4 to 2, holdout 0.0 (seed 0)" in shown
    for part in ("in full", "10 ambiguous points in holdout", "points 5 times"):
        assert part in shown
    assert made("data", "info", tmp_path / "set", "--verify").out == shown


@pytest.mark.parametrize(
    ("option", "value", "pattern"),
    [
        ("--noise-pairs", "6-0", "--noise-pairs: got '6-0', allowed FROM:TO"),
        ("--noise-pairs", "auto", "none are known of idx, but of fashion-mnist"),
        ("--relevance", "2", "--relevance: got '2', allowed K:SHARE"),
        ("--duplicates", "many", "--duplicates: got 'many', allowed K"),
        ("--columns", ",b", "--columns: got ',b', allowed INPUTS,LABEL"),
        ("--columns", "a,b", "columns: got a, b for idx, allowed names for hugging-face, parquet"),
        ("--resize", "8", "resize: got 8 for idx, allowed 1 or more, for cinic-10"),
    ],
)
def test_bad_options_give_one_line(
    idx_source: Path, tmp_path: Path, option: str, value: str, pattern: str
) -> None:
    result = rhoctl("data", "import", "idx", idx_source, tmp_path / "set", option, value)
    assert result.code == 2 and result.err.count("\n") == 1
    assert re.search(pattern, result.err), result.err
    assert entries(tmp_path) == ["idx"]
