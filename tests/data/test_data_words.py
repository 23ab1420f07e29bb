"""The words of imported texts, which are kept beside their token ids for people to read."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from data_helpers import CPU, refused

from rhoselect.data import ArrowDataset
from rhoselect.errors import DataError
from rhoselect.importers import import_dataset, write_dataset

TEXTS = [
    "A gem, a gem of a film!",
    "No.",
    "",
    "Été in the film",
    "Cut: all that comes after is cut off",
]
WORDS = [
    "a gem , a gem of a film",
    "no .",
    "",
    "été in the film",
    "cut : all that comes after is cut",
]


def source(folder: Path, kind: str) -> Path:
    """TEXTS as a source of this kind, in each of its splits."""
    folder.mkdir()
    rows = [("sentence", "label"), *((text, str(n % 2)) for n, text in enumerate(TEXTS))]
    if kind == "cola":
        rows = [("x", label, "", text) for text, label in rows[1:]]  # type: ignore[misc]
    lines = ["\t".join(row) for row in rows]
    for split in ("train", "dev"):
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("kind", ["tsv", "sst-2", "cola"])
@pytest.mark.parametrize("vocabulary", [8192, 6], ids=["ids of their own", "shared ids"])
def test_a_token_id_has_its_most_frequent_word(tmp_path: Path, kind: str, vocabulary: int) -> None:
    dataset = import_dataset(
        kind, source(tmp_path / "src", kind), tmp_path / "set", tokens=8, vocabulary=vocabulary
    )
    dataset.verify()
    points = dataset.split("train")
    ids = points.stored(points.indices)
    counts: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for row, text in zip(ids.tolist(), WORDS, strict=True):
        for token, word in zip(row, text.split(), strict=False):
            counts[token][word] += 1
    for token, word in points.words.items():
        assert counts[token][word] == max(counts[token].values())
    assert points.words.keys() == counts.keys()
    if vocabulary == 8192:
        assert [" ".join(points.words[i] for i in row if i) for row in ids.tolist()] == WORDS


def test_words_change_no_fingerprint_and_other_ids_have_none(tmp_path: Path) -> None:
    """Else irreducible losses that were fitted before would be refused."""
    dataset = import_dataset("tsv", source(tmp_path / "src", "tsv"), tmp_path / "set")
    splits = {}
    for name in dataset.splits:
        points = dataset.split(name)
        splits[name] = points.stored(points.indices), points.labels(points.indices)
    given = write_dataset(tmp_path / "given", "tokens", splits, dataset.classes)
    assert given.fingerprint == dataset.fingerprint
    assert ArrowDataset.open(tmp_path / "given").split("train").words == {}


def test_texts_without_a_word_have_none(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        (tmp_path / f"{split}.tsv").write_text("sentence\tlabel\n" + "\t0\n\t1\n" * 3)
    dataset = import_dataset("sst-2", tmp_path, tmp_path / "set")
    assert dataset.split("train").words == {}
    assert not np.any(dataset.split("train").read(np.arange(3), CPU).inputs.numpy())


def test_words_of_another_import_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    import_dataset("tsv", source(tmp_path / "src", "tsv"), folder)
    path = folder / "words.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with refused("words.parquet: got sha256 .*allowed .* by the manifest", DataError):
        ArrowDataset.open(folder).verify()
