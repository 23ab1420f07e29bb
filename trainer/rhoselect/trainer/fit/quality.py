"""How good the models of irreducible losses are, and when those should be doubted."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rhoselect.data.token_losses import TokenLosses, joined
from rhoselect.models.replica import Replica
from rhoselect.selection.tokens import token_losses
from rhoselect.trainer.fit.training import Subset, outputs

RISE = 1.1
# A mean loss above this share of a guess: the model knows next to nothing.
NOTHING = 0.98
"""A model overfits if its last epoch's mean loss is that many times the lowest."""


@dataclass(frozen=True)
class Judged:
    """Points under one model: their ``losses`` [N] float32 in nats, how many of them it labels
    right, and how many have each label. Losses of the user's own come without labels. ``tokens``:
    the losses of their tokens, if they were asked for."""

    losses: npt.NDArray[np.float32]
    correct: int
    labels: Counter[int]
    tokens: TokenLosses | None = None

    @property
    def mean(self) -> float:
        """The mean loss in nats."""
        return float(self.losses.mean(dtype=np.float64))


def judge(replica: Replica, scored: Subset, batch: int, by_token: bool = False) -> Judged:
    """The points ``scored`` under the loaded weights, ``batch`` of them in a forward; with
    ``by_token`` also their tokens. Raises ConfigError of a task without losses of tokens."""
    losses, correct, labels, tokens = [], 0, Counter[int](), []
    for output in outputs(replica, scored, batch):
        losses.append(output.losses.cpu().numpy())
        if output.logits is not None and output.labels is not None:
            correct += int((output.logits.argmax(1) == output.labels).sum())
            labels.update(output.labels.tolist())
        if by_token:
            each, mask = token_losses(output)
            tokens.append(TokenLosses.of(mask.sum(1).cpu().numpy(), each[mask].cpu().numpy()))
    return Judged(np.concatenate(losses), correct, labels, joined(tokens) if by_token else None)


@dataclass
class Quality:
    """The models of a table together, over all points that they score."""

    points: int = 0
    correct: int = 0
    labels: Counter[int] = field(default_factory=Counter)
    last: float = 0.0

    def add(self, judged: Judged, last_loss: float) -> None:
        """Add a model's points; ``last_loss`` is their mean loss after its last epoch."""
        count = len(judged.losses)
        self.points += count
        self.correct += judged.correct
        self.labels += judged.labels
        self.last += count * last_loss

    @property
    def last_loss(self) -> float:
        """The mean loss in nats after the last epoch, which is not always the one kept."""
        return self.last / self.points

    @property
    def accuracy(self) -> float | None:
        """The share of points that are labelled right; None if labels are not known."""
        return self.correct / self.points if self.labels else None

    @property
    def guess_loss(self) -> float | None:
        """The mean loss in nats of a guess that knows only how frequent each label is."""
        shares = [count / self.points for count in self.labels.values()]
        return -math.fsum(share * math.log(share) for share in shares) if shares else None


def doubts(
    mean_loss: float,
    guess_loss: float | None,
    last_loss: float | None,
    guess: str = "of a guess",
) -> list[str]:
    """Why irreducible losses of this mean should be doubted, a sentence each.

    ``guess_loss``: the mean ``guess``; ``last_loss``: after the last epoch; None if not known.
    """
    found = []
    if guess_loss is not None and mean_loss > NOTHING * guess_loss:
        found.append(
            f"the model has learnt next to nothing (mean loss {mean_loss:.4f} nats, {guess}"
            f" {guess_loss:.4f}), so its losses say little about the points; try another model, a"
            " lower learning rate or more epochs"
        )
    if last_loss is not None and last_loss > RISE * mean_loss:
        found.append(
            f"the model overfits: after the epoch that was kept the mean loss rose from"
            f" {mean_loss:.4f} to {last_loss:.4f} nats; fit fewer epochs, so that the learning rate"
            " falls to 0 earlier, or a smaller model, or learn from more points"
        )
    return found
