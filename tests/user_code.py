"""Models, score functions and data sets as users may name them by mistake."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rhoselect.selection import Needs, Picked, ScoreFunction, ScoreInputs, Shortlist

NOT_CALLABLE = 3


def raising(**_: Any) -> nn.Module:
    raise RuntimeError("no weights\nfound")


def not_a_module(**_: Any) -> Any:
    return lambda inputs: inputs


def not_an_optimizer(params: Any, lr: float) -> Any:
    return params


class Noisy(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Points with noise that is drawn at every read, as of a random augmentation."""

    def __init__(self, split: str) -> None:
        self.split = split

    def __len__(self) -> int:
        return 20

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return torch.rand(4), place % 2


class Linear(nn.Module):
    """Logits [C, classes + extra]."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, extra: int = 0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(classes + extra))
        self.layers(torch.zeros(1, *input_shape))

    def forward(self, inputs: Tensor) -> Any:
        return self.layers(inputs)


def scripted(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    with warnings.catch_warnings(action="ignore"):  # torch.jit is deprecated, and used
        return torch.jit.trace(Linear(input_shape, classes), torch.zeros(2, *input_shape))


class Uncopied(Linear):
    """With torch's first weight_norm, whose modules cannot be copied."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        with warnings.catch_warnings(action="ignore"):  # it is deprecated, and used
            torch.nn.utils.weight_norm(self.layers[1])


class TupleOutput(Linear):
    def forward(self, inputs: Tensor) -> Any:
        return self.layers(inputs), inputs


class Cached(Linear):
    """Keeps a table that its first forward makes, as of positions."""

    table: Tensor | None = None

    def forward(self, inputs: Tensor) -> Any:
        logits = self.layers(inputs)
        if self.table is None:
            self.table = torch.full_like(logits[:1], 2.0, requires_grad=False)
        return logits * self.table


class Slow(Linear):
    """A step of training takes 50 ms, most of which leave the cores to others."""

    def forward(self, inputs: Tensor) -> Any:
        if self.training:
            time.sleep(0.05)
        return self.layers(inputs)


class Marked(Linear):
    """Marks each forward on so many ``points``, not in training, in a file of its process."""

    def __init__(
        self, input_shape: tuple[int, ...], classes: int, folder: str, points: int
    ) -> None:
        super().__init__(input_shape, classes)
        self.folder, self.points = Path(folder), points

    def forward(self, inputs: Tensor) -> Any:
        if not self.training and len(inputs) == self.points:
            with (self.folder / str(os.getpid())).open("a") as file:
                file.write(".")
        return self.layers(inputs)


class LongEvaluated(Linear):
    """A single point, not in training, takes 100 ms, and makes the file ``mark``."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, mark: str) -> None:
        super().__init__(input_shape, classes)
        self.mark = Path(mark)

    def forward(self, inputs: Tensor) -> Any:
        if not self.training and len(inputs) == 1:
            self.mark.touch()
            time.sleep(0.1)
        return self.layers(inputs)


class Scaled(Linear):
    """Logits that are not the output of a layer."""

    def forward(self, inputs: Tensor) -> Any:
        return 2 * self.layers(inputs)


class Dropped(nn.Module):
    """A perceptron with BatchNorm and dropout."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.LazyLinear(32),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(32, classes),
        )
        self.layers(torch.zeros(2, *input_shape))

    def forward(self, inputs: Tensor) -> Any:
        return self.layers(inputs)


class Attending(nn.Module):
    """A transformer with dropout: the rows of an image are its tokens."""

    def __init__(self, input_shape: tuple[int, ...], classes: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(
            input_shape[-1], 2, 24, dropout, batch_first=True, norm_first=True
        )
        self.head = nn.Linear(input_shape[-1], classes)

    def forward(self, inputs: Tensor) -> Any:
        return self.head(self.layer(inputs[:, 0]).mean(1))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, 13), nn.Linear(13, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(0.2)

    def forward(self, hidden: Tensor) -> Any:
        return hidden + self.outer(self.dropout(self.inner(self.norm(hidden)).tanh()))


class Stacked(nn.Module):
    """Blocks with dropout; no number of ranks divides all of their shapes."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        width = input_shape[-1]
        self.layers, self.head = nn.ModuleList([Block(width), Block(width)]), nn.Linear(width, 7)
        self.last = nn.Linear(7, classes)

    def forward(self, inputs: Tensor) -> Any:
        hidden = inputs[:, 0]
        for layer in self.layers:
            hidden = layer(hidden)
        return self.last(self.head(hidden.mean(1)))


class Deep(nn.Module):
    """Eight equal layers, which have nearly all of its parameters."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 96), nn.Linear(96, classes)
        self.layers = nn.ModuleList([nn.Linear(96, 96) for _ in range(8)])

    def forward(self, inputs: Tensor) -> Any:
        hidden = self.first(inputs.flatten(1)[:, :4])
        for layer in self.layers:
            hidden = layer(hidden).relu()
        return self.last(hidden)


class OwnRandom(Linear):
    """In training mode draws from a generator of its own."""

    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__(input_shape, classes)
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, inputs: Tensor) -> Any:
        logits = self.layers(inputs)
        if self.training:
            return logits + torch.randn(logits.shape, generator=self.generator)
        return logits


class OneDimension(Linear):
    def forward(self, inputs: Tensor) -> Any:
        return self.layers(inputs)[:, 0]


class Integers(Linear):
    def forward(self, inputs: Tensor) -> Any:
        return self.layers(inputs).long()


class FailingForward(Linear):
    def forward(self, inputs: Tensor) -> Any:
        raise AssertionError


class FailingStep(Linear):
    """Wants targets while it trains, as detectors do."""

    def forward(self, inputs: Tensor) -> Any:
        if self.training:
            raise KeyError("targets")
        return self.layers(inputs)


class NothingToTrain(nn.Module):
    def __init__(self, input_shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1)[:, : self.classes]


class NanForMost(Linear):
    """NaN unless the first pixel is dark."""

    def forward(self, inputs: Tensor) -> Any:
        dark = inputs[:, :1, 0, 0] < -1.4
        return self.layers(inputs).where(dark, torch.nan)


class DivergesAt(Linear):
    """Training loss is not finite at step ``step``, nor thereafter."""

    left: Tensor

    def __init__(self, input_shape: tuple[int, ...], classes: int, step: int) -> None:
        super().__init__(input_shape, classes)
        self.register_buffer("left", torch.tensor(float(step)))

    def forward(self, inputs: Tensor) -> Any:
        if self.training:
            self.left -= 1
        return self.layers(inputs) / (self.left >= 0)


class NotAScoreFunction:
    pass


class WantsArguments(ScoreFunction):
    def __init__(self, strength: float) -> None:
        self.strength = strength

    def score(self, inputs: ScoreInputs) -> Tensor:
        return inputs.forward.losses


class FiniteForFew(ScoreFunction):
    """NaN for all but the first of each 16 points that are scored together."""

    def score(self, inputs: ScoreInputs) -> Tensor:
        scores = torch.full((len(inputs.indices),), torch.nan)
        scores[: len(scores) // 16] = 1.0
        return scores


class WantsReference(ScoreFunction):
    needs = Needs(reference=True)

    def score(self, inputs: ScoreInputs) -> Tensor:
        return inputs.forward.losses


class PassesWithoutForward(ScoreFunction):
    needs = Needs(forward=False, passes=8)

    def score(self, inputs: ScoreInputs) -> Tensor:
        return torch.zeros(len(inputs.indices))


class Sampled(ScoreFunction):
    """The loss; every other point of the best ones counts three times."""

    def score(self, inputs: ScoreInputs) -> Tensor:
        return inputs.forward.losses

    def pick(self, shortlist: Shortlist, n_b: int, rng: np.random.Generator) -> Picked:
        return Picked(np.arange(n_b), np.resize(np.array([3, 1], np.float32), n_b))


class OneScore(ScoreFunction):
    """One score for all points instead of one each."""

    def score(self, inputs: ScoreInputs) -> Tensor:
        return inputs.forward.losses.mean()


class Counting(torch.optim.Optimizer):
    """Steps along the gradient at every ``every``-th call; it keeps numbers as many optimizers do:
    in a parameter's state and in the group."""

    def __init__(self, params: Any, lr: float, every: int = 2, weight_decay: float = 0.0) -> None:
        super().__init__(
            params, {"lr": lr, "weight_decay": weight_decay, "every": every, "calls": 0}
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["calls"] += 1
            for parameter in group["params"]:
                calls = self.state[parameter].setdefault("calls", (0, "since 0"))[0] + 1
                self.state[parameter]["calls"] = (calls, "since 0")
                if calls % group["every"] == 0 and group["calls"] == calls:
                    parameter.sub_(parameter.grad, alpha=group["lr"])


class Forgetful(Counting):
    """Counts where no state_dict() has it."""

    calls = 0

    def step(self, closure: Any = None) -> None:
        self.calls += 1
        for group in self.param_groups:
            group["calls"] = self.calls
        super().step()


class OddState(Counting):
    def state_dict(self) -> Any:
        return {**super().state_dict(), "random": torch.Generator()}
