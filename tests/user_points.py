"""Data sets of dicts, and tasks with collators, as users may write them by mistake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from rhoselect.tasks import Classification

SIZES = {"train": 96, "holdout": 40, "test": 32}
VOCABULARY = 50


class Points:
    """Point i has i % 5 + 3 token ids, their mask and a label of 3 classes; what ``broken`` names
    is wrong with it."""

    def __init__(self, split: str, broken: str = "") -> None:
        self.split, self.broken = split, broken
        self.vocabulary = VOCABULARY + (broken == "vocabulary")

    def __len__(self) -> int:
        return 0 if self.broken == "empty" and self.split == "test" else SIZES[self.split]

    def __getitem__(self, place: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(place + 1000 * len(self.split))
        count = 3 + place % 5
        ids = torch.randint(1, VOCABULARY, (count,), generator=generator)
        mask, label = torch.ones(count, dtype=torch.int64), int(ids.sum()) % 3
        match self.broken:
            case "structure" if place % 2:
                return {"input_ids": ids, "labels": label}
            case "dtype" if place % 2:
                ids = ids.to(torch.int32)
            case "id" if place == 0:
                ids[0] = VOCABULARY + 7
            case "again":
                ids = ids.flip(0) if torch.rand(()) < 0.5 else ids + 1
            case "labels":
                return {"input_ids": ids, "attention_mask": mask}
        return {"input_ids": ids, "attention_mask": mask, "labels": label}


class Bag(nn.Module):
    """Logits [C, classes] of the mean embedding."""

    def __init__(self, classes: int, vocabulary: int = VOCABULARY) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(vocabulary, 8), nn.Linear(8, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask[..., None].float()
        logits: Tensor = self.head((self.embedding(input_ids) * mask).sum(1) / mask.sum(1))
        return logits


class Collating(Classification):
    """A classification whose collator does what ``how`` names."""

    def __init__(self, how: str) -> None:
        self.how = how

    def collate(self, examples: Sequence[Any]) -> Any:
        match self.how:
            case "drops":
                return super().collate(examples[1:] or examples * 2)
            case "sorts":
                return super().collate(sorted(examples, key=lambda item: len(item["input_ids"])))
            case "reverses":
                return super().collate(examples[::-1])
            case "draws":
                content = super().collate(examples)
                return content | {"input_ids": torch.randint_like(content["input_ids"], 50)}
        return super().collate(examples)


class Endless(IterableDataset[Any]):
    """A stream without an end."""

    def __init__(self, split: str) -> None:
        self.split = split

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield [1, 2, 3]


def stream(split: str, broken: str) -> Iterator[Any]:
    """An endless stream of token ids; what ``broken`` names is wrong with it."""
    place = 0
    while not (broken == "empty" and split == "test"):
        point: dict[str, Any] = {"input_ids": [place] * (1 + place % 3)}
        match broken:
            case "again":
                point["input_ids"] = torch.randint(50, (2,))
            case "object":
                point["input_ids"] = object()
            case "keys" if place == 30:
                point["mask"] = 1
            case "none" if place == 30:
                point["input_ids"] = None
            case "type" if place == 30:
                point["input_ids"] = ["a"]
            case "raises" if place == 30:
                raise OSError("connection lost")
        yield point
        place += 1
