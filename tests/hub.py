"""Folders as the libraries of Hugging Face write them, made without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WORDS = ("a", "gem", "dull", "film", "plot", "from", "start", "to", "end", "very")
CLASSES = ["bad", "good"]
SIZES = {"train": 60, "validation": 20, "test": 20}


def sentences(count: int, seed: int = 0) -> dict[str, Any]:
    """Texts of 1 to 6 words, of which "gem" and "dull" tell the label."""
    labels = [(row + seed) % 2 for row in range(count)]
    texts = [
        " ".join([("dull", "gem")[label], *(WORDS[(row * 7 + k) % 10] for k in range(row % 6))])
        for row, label in enumerate(labels)
    ]
    return {"text": texts, "label": labels}


def saved(folder: Path, splits: Mapping[str, Mapping[str, Sequence[Any]]], **columns: Any) -> str:
    """A DatasetDict on disk; ``columns`` are features by name."""
    import datasets  # here, because it takes a second

    datasets.disable_progress_bars()
    made = {}
    for name, rows in splits.items():
        part = datasets.Dataset.from_dict(dict(rows))
        features = part.features.copy()
        features.update({name: kind for name, kind in columns.items() if name in features})
        made[name] = part.cast(features)
    datasets.DatasetDict(made).save_to_disk(str(folder))
    return str(folder)


def reviews(folder: Path) -> str:
    import datasets

    splits = {name: sentences(size, len(name)) for name, size in SIZES.items()}
    return saved(folder, splits, label=datasets.ClassLabel(names=CLASSES))


def word_tokenizer(folder: Path, words: Sequence[str] = WORDS) -> str:
    """A tokenizer of whole words: id 0 is padding, 1 an unknown word."""
    import transformers  # here, because it takes seconds
    from tokenizers import Tokenizer, models, pre_tokenizers

    ids = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words])}
    made = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]"
    )
    fast.save_pretrained(str(folder))
    return str(folder)
