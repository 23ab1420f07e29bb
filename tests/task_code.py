"""Tasks, data sets and models as a user writes them, and some that are wrong."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from rhoselect.tasks import Batch, Classification, Losses, Task

SIZES = {"train": 64, "holdout": 24, "test": 20}
WORDS = 12


class Points(Dataset[Any]):
    """Items of one kind, each a function of its split and place alone."""

    def __init__(self, split: str, kind: str) -> None:
        self.split, self.kind = split, kind

    def __len__(self) -> int:
        return SIZES[self.split]

    def __getitem__(self, place: int) -> Any:
        seed = 1000 * list(SIZES).index(self.split) + place
        random = torch.Generator().manual_seed(seed)
        return ITEMS[self.kind](torch.randn(6, generator=random), random)


def views(image: Tensor, random: torch.Generator) -> Any:
    """An image, a text of some words, and how well they fit."""
    length = int(torch.randint(2, 7, (), generator=random))
    words = torch.randint(1, WORDS, (length,), generator=random).tolist()
    return {"image": image, "words": words, "fit": float(image[0]) + words[0] / WORDS}


def sequence(image: Tensor, random: torch.Generator) -> Any:
    """Tokens that count upwards, from a random one, and then some noise."""
    length, first = torch.randint(3, 9, (2,), generator=random).tolist()
    return [(first + place + int(image[place % 6] > 1)) % WORDS for place in range(length)]


ITEMS = {
    "views": views,
    "sequence": sequence,
    "number": lambda image, random: (image, float(image.sum())),
    "labels": lambda image, random: (image, (image[:3] > 0).float()),
    "class": lambda image, random: (image, int(image[:3].argmax())),
}


class Fit(Task):
    """How well an image and a text fit: the absolute error, by two inputs."""

    metric = "error"

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def collate(self, examples: Sequence[Any]) -> Any:
        words = [torch.tensor(example["words"]) for example in examples]
        return {
            "image": torch.stack([example["image"] for example in examples]),
            "text": {"words": nn.utils.rnn.pad_sequence(words, batch_first=True)},
            "fit": torch.tensor([example["fit"] for example in examples]),
        }

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        found = model(batch.content["image"], batch.content["text"]["words"])
        return Losses(self.scale * (found.float() - batch.content["fit"]).abs())

    def evaluate(self, model: nn.Module, batches: Any) -> Any:
        losses = torch.cat([self.losses(model, batch).losses for batch in batches])
        return {"error": float(losses.mean()), "most": float(losses.max())}


class Pausing(nn.Module):
    """A model whose step of training takes ``pause_s`` longer, which leaves the cores to others."""

    def __init__(self, pause_s: float) -> None:
        super().__init__()
        self.pause_s = pause_s

    def pause(self) -> None:
        if self.training:
            time.sleep(self.pause_s)


class TwoViews(Pausing):
    """A number for an image and the mean of a text's words; word 0 is padding."""

    def __init__(self, width: int = 8, pause_s: float = 0.0) -> None:
        super().__init__(pause_s)
        self.image = nn.Linear(6, width)
        self.words = nn.Embedding(WORDS, width, padding_idx=0)
        self.head = nn.Linear(width, 1)

    def forward(self, image: Tensor, words: Tensor) -> Tensor:
        self.pause()
        read = (words != 0).sum(1, keepdim=True)
        hidden: Tensor = self.image(image) + self.words(words).sum(1) / read
        return self.head(hidden.tanh()).squeeze(1)  # type: ignore[no-any-return]


class Recurrent(Pausing):
    """Logits [C, T, V] of the next token, with no body and head that a task would know."""

    def __init__(self, width: int = 8, pause_s: float = 0.0) -> None:
        super().__init__(pause_s)
        self.embedding, self.layers = (
            nn.Embedding(WORDS, width),
            nn.GRU(width, width, batch_first=True),
        )
        self.out = nn.Linear(width, WORDS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        self.pause()
        return self.out(self.layers(self.embedding(input_ids))[0])  # type: ignore[no-any-return]


class Wrong(Fit):
    """Losses that are wrong in one way."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.calls = how, 0

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        right = super().losses(model, batch).losses
        self.calls += 1
        return Losses(WRONG[self.how](right, self.calls))

    def evaluate(self, model: nn.Module, batches: Any) -> Any:
        return {"loss" if self.how == "metric" else self.metric: 1.0}


class Dropping(Fit):
    """Leaves out the points with long texts."""

    def collate(self, examples: Sequence[Any]) -> Any:
        return super().collate([each for each in examples if len(each["words"]) < 5])


class ByLoss(Classification):
    """A classification that is measured by its mean loss."""

    metric = "log_loss"
    direction = "min"

    def evaluate(self, model: nn.Module, batches: Any) -> Any:
        losses = torch.cat([self.losses(model, batch).losses for batch in batches])
        return {"log_loss": float(losses.mean())}


WRONG: dict[str, Any] = {
    "mean": lambda losses, calls: losses.mean(),
    "mean for all": lambda losses, calls: losses.mean().expand(len(losses)),
    "NaN": lambda losses, calls: losses * torch.nan,
    "two columns": lambda losses, calls: losses[:, None].expand(-1, 2),
    "random": lambda losses, calls: losses + torch.rand(len(losses)),
    "counting": lambda losses, calls: losses * calls,
    "ranked": lambda losses, calls: losses.sort().values,
    "centred": lambda losses, calls: losses - losses.mean(),
    "float": lambda losses, calls: 1.0,
    "metric": lambda losses, calls: losses,
}


class NoTask:
    """Has losses and is no Task."""
