"""The rules of choices.py, which choose n_b points of a window, and the loop that learns by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhoselect.models.build import build_model
from rhoselect.selection.reducr import Reducr

N_B, N_WINDOW, CLASSES = 32, 320, 10
COPIES, RARE = 5, 10
ETA = 1e-4
"""How fast the weights of REDUCR's classes change: that of its own experiments."""
Points = tuple[Tensor, Tensor]
"""Inputs [N, D] and labels [N]."""


@dataclass(frozen=True)
class Cell:
    """``kind``: "even"; "copies", a window has N_WINDOW / 5 points, each five times; "rare", a
    tenth is left of five of the ten classes, but all of the holdout."""

    noise: float
    steps: int
    kind: str = "even"

    def __str__(self) -> str:
        kinds = {"even": "", "copies": ", each point five times", "rare": ", five classes rare"}
        return f"{self.noise:.0%} wrong labels, {self.steps} steps{kinds[self.kind]}"


@dataclass(frozen=True)
class Ground:
    """Points to learn, their irreducible losses [N], those of REDUCR [N, K], and the points on
    which accuracies are measured."""

    points: Points
    il: Tensor
    class_il: Tensor
    holdout: Points
    validation: Points
    test: Points


@dataclass(frozen=True)
class Window:
    """Candidates of a step under the weights of now: their rows among the points [N], labels [N],
    losses [N], reducible losses [N], logits [N, K] and inputs of the last layer [N, F]."""

    rows: Tensor
    labels: Tensor
    losses: Tensor
    scores: Tensor
    logits: Tensor
    features: Tensor


Rule = Callable[[Window], Tensor | tuple[Tensor, Tensor]]
"""Places in the window, and weights that sum to 1 if they are not equal."""


def best(window: Window, count: int = N_B) -> Tensor:
    """Those with the greatest reducible loss: RHO-LOSS."""
    return window.scores.topk(count).indices


def sampled(random: torch.Generator, temperature: float, window: Window) -> Tensor:
    """Drawn without replacement, p in proportion to exp(score / temperature). The temperature is in
    standard deviations of the window's scores."""
    gumbel = -torch.empty(len(window.scores)).exponential_(generator=random).log()
    scores = window.scores / (temperature * window.scores.std())
    return (scores + gumbel).topk(N_B).indices


def weighted(window: Window) -> tuple[Tensor, Tensor]:
    """The 2 n_b best, weighted by a softmax of their scores in standard deviations of the window's:
    a step computes gradients of twice as many points."""
    places = best(window, 2 * N_B)
    return places, (window.scores[places] / window.scores.std()).softmax(0)


def quota(window: Window) -> Tensor:
    """The best, but of each class at most twice an even share, as long as there are others."""
    order = window.scores.argsort(descending=True)
    classes = F.one_hot(window.labels[order], CLASSES)
    too_many = (classes.cumsum(0) * classes).sum(1) > 2 * N_B // CLASSES
    return order[too_many.int().argsort(stable=True)][:N_B]


def covering(window: Window) -> Tensor:
    """Greedy facility location among the 3 n_b best: points whose last layer's gradients are
    similar, by the cosine, to those of as much positive score as possible."""
    among = best(window, 3 * N_B)
    g = window.logits[among].softmax(1) - F.one_hot(window.labels[among], CLASSES)
    h = F.pad(window.features[among], (0, 1), value=1.0)  # a one for the bias
    g, h = F.normalize(g), F.normalize(h)
    similar = ((g @ g.T) * (h @ h.T)).clamp(min=0)  # [3 n_b, 3 n_b]
    worth = window.scores[among].clamp(min=0)
    covered, free = torch.zeros(len(among)), torch.ones(len(among), dtype=torch.bool)
    chosen = []
    for _ in range(N_B):
        gains = (similar - covered).clamp(min=0) @ worth
        row = gains.masked_fill(~free, -1.0).argmax()
        chosen.append(row)
        free[row] = False
        covered = covered.maximum(similar[row])
    return among[torch.stack(chosen)]


class Simplified:
    """``selection.function = "reducr"``."""

    def __init__(self) -> None:
        self._rule = Reducr()
        self._state = self._rule.initial_state(CLASSES)

    def __call__(self, window: Window) -> Tensor:
        scores = self._state["class_weights"][window.labels] * window.scores
        places = scores.topk(N_B).indices
        labels, losses = window.labels[places], window.losses[places]
        self._state = self._rule.next_state(self._state, labels, losses)
        return places


class Published:
    """REDUCR (Bankes et al. 2023): the greatest sums over classes c of w_c max(0, L - IL_c), IL_c
    under the model of class c. w_c falls with these terms of the points chosen so far, and grows
    with the class's loss on the holdout, which is measured once an epoch of candidates."""

    def __init__(self, model: nn.Module, ground: Ground) -> None:
        self._model, self._ground, self._seen = model, ground, 0
        self._sums, self._holdout = torch.zeros(CLASSES), torch.zeros(CLASSES)

    def __call__(self, window: Window) -> Tensor:
        if self._seen % len(self._ground.il) < len(window.rows):
            losses = losses_under(self._model, self._ground.holdout)
            self._holdout = class_means(losses, self._ground.holdout[1])
        self._seen += len(window.rows)
        excess = (window.losses[:, None] - self._ground.class_il[window.rows]).clamp(min=0)
        places = (excess @ (-ETA * self._sums).softmax(0)).topk(N_B).indices
        self._sums += (excess[places] - self._holdout).sum(0)
        return places


RULES: dict[str, Callable[[nn.Module, Ground, torch.Generator], Rule]] = {
    "top": lambda *_: best,
    "sampled, T .3": lambda _, __, random: partial(sampled, random, 0.3),
    "sampled, T 1": lambda _, __, random: partial(sampled, random, 1.0),
    "2 n_b": lambda *_: partial(best, count=2 * N_B),
    "2 n_b weighted": lambda *_: weighted,
    "class quota": lambda *_: quota,
    "covering": lambda *_: covering,
    "REDUCR": lambda model, ground, _: Published(model, ground),
    "REDUCR, simplified": lambda *_: Simplified(),
}


class Descent:
    """A model that learns by AdamW, at a rate that falls to 0 along a cosine in ``steps``."""

    def __init__(self, points: Points, width: int, seed: int, lr: float, steps: int) -> None:
        shape, args = tuple(points[0].shape[1:]), {"width": width, "depth": 2}
        self.model = build_model("rhoselect.models:mlp", args, shape, CLASSES, seed)
        weights = self.model.parameters()
        self._optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.01, fused=True)
        self._decay = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, steps)

    def step(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._decay.step()


def learn(ground: Ground, cell: Cell, rule: str, lr: float, seed: int) -> dict[str, float]:
    """Accuracies after a run: on validation points, on test points, and of the worst class."""
    inputs, labels = ground.points
    descent = Descent(ground.points, 512, seed, lr, cell.steps)
    model = descent.model
    choose = RULES[rule](model, ground, torch.Generator().manual_seed(seed))
    for rows in windows(labels, cell, seed):
        with torch.no_grad():
            features = model[:-1](inputs[rows])
            logits = model[-1](features)
            losses = F.cross_entropy(logits, labels[rows], reduction="none")
            scores = losses - ground.il[rows]
            chosen = choose(Window(rows, labels[rows], losses, scores, logits, features))
        places, weights = chosen if isinstance(chosen, tuple) else (chosen, None)
        points = inputs[rows[places]], labels[rows[places]]
        each = losses_under(model, points)
        descent.step(each.mean() if weights is None else each @ weights)
    with torch.no_grad():
        right = [(model(x).argmax(1) == y).float() for x, y in (ground.validation, ground.test)]
    worst = class_means(right[1], ground.test[1]).min()
    found = {"validation": right[0].mean(), "accuracy": right[1].mean(), "worst_class": worst}
    return {name: float(value) for name, value in found.items()}


def windows(labels: Tensor, cell: Cell, seed: int) -> Iterator[Tensor]:
    """Rows [N_WINDOW] of each step, in epochs that are shuffled."""
    random = torch.Generator().manual_seed(seed)
    among = torch.arange(len(labels))
    if cell.kind == "rare":
        among = among[(labels < CLASSES // 2) | (among % RARE == 0)]
    count = N_WINDOW // COPIES if cell.kind == "copies" else N_WINDOW
    order = among[:0]
    for _ in range(cell.steps):
        if len(order) < count:
            order = among[torch.randperm(len(among), generator=random)]
        rows, order = order[:count], order[count:]
        yield rows.repeat_interleave(N_WINDOW // count)


def losses_under(model: nn.Module, points: Points) -> Tensor:
    """Losses [N] of points."""
    return F.cross_entropy(model(points[0]), points[1], reduction="none")


def class_means(values: Tensor, labels: Tensor) -> Tensor:
    """Means [K] of ``values`` [N] by class."""
    sums = torch.zeros(CLASSES).index_add(0, labels, values)
    return sums / labels.bincount(minlength=CLASSES)
