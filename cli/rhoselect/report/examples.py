"""Points of a run to look at: those most often skipped, most often selected, most suspicious."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rhoselect.compute import threads
from rhoselect.data import SplitPoints
from rhoselect.data.images import thumbnail
from rhoselect.errors import RunFolderError, shortened
from rhoselect.inputs import RunInputs
from rhoselect.report.export import irreducible_losses, last_weights
from rhoselect.report.history import History
from rhoselect.report.runs import Ints, Run
from rhoselect.types import Indices

EACH = 12
"""Points of a kind."""
LOOKED_AT = 256
"""Points of the greatest irreducible losses, among which the suspicious ones are looked for."""
SIDE = 96
"""Pixels of a picture, at most."""
NUMBERS = 12
"""Numbers of an input that is no picture, at most."""
CHARACTERS = 300
"""Of a text, at most."""
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Example:
    """A point. Losses are in nats, ``last_loss`` under the weights after the last step; None where
    not known. ``origin``: where it came from, "" where not known. ``picture`` is a PNG, or None and
    ``text`` says what the input is."""

    index: int
    label: int
    clean_label: int | None
    last_loss: float | None
    irreducible_loss: float | None
    seen: int
    selected: int
    origin: str
    picture: bytes | None
    text: str


@dataclass(frozen=True)
class Examples:
    """EACH or fewer points of each kind; the names of the classes [K], if they have names.
    ``in_words``: whether their texts are words, of which those with one token id cannot be told
    apart."""

    skipped: list[Example]
    selected: list[Example]
    suspicious: list[Example]
    names: Sequence[str] | None
    in_words: bool


def examples_of(path: Path, run: Run, inputs: RunInputs, past: History) -> Examples:
    """Points of the run at ``path`` to look at. Raises UserError if its data cannot be read."""
    order = np.random.default_rng(0).permutation(len(past.seen))  # of points with equal counts
    never = order[past.skipped[order]]
    skipped = never[np.argsort(-past.seen[never], kind="stable")][:EACH]
    chosen = order[past.selected[order] > 0]
    most = chosen[np.argsort(-past.selected[chosen], kind="stable")][:EACH]
    il = irreducible_losses(inputs)
    losses = _last_losses(path, run, inputs)
    doubted = np.array([], np.int64) if il is None else _suspicious(inputs, past, il, losses)
    show = _Shower(inputs, past, il, losses)
    kinds = (show(skipped), show(most), show(doubted))
    return Examples(*kinds, inputs.dataset.class_names, bool(inputs.train.words))


def _suspicious(inputs: RunInputs, past: History, il: Array, losses: _Losses | None) -> Ints:
    """Ranks of points whose labels both models find less likely than a guess, of those that the
    method chose no more often than a uniform choice does; the most unlikely ones first."""
    selection, chance = inputs.config.selection, math.log(inputs.dataset.classes)
    rare = past.selected * selection.n_B <= past.seen * selection.n_b
    ranks = np.flatnonzero(rare & (past.seen > 0) & (il > chance))
    ranks = ranks[np.argsort(-il[ranks], kind="stable")][:LOOKED_AT]
    if losses is None or not len(ranks):
        return ranks[:EACH]
    both = np.minimum(il[ranks], losses(ranks + inputs.train.start))
    worst = np.argsort(-both, kind="stable")
    return ranks[worst[both[worst] > chance]][:EACH]


_Losses = Callable[[Indices], npt.NDArray[np.float32]]
"""Losses [C] in nats of the points ``indices`` [C]."""


def _last_losses(path: Path, run: Run, inputs: RunInputs) -> _Losses | None:
    """Losses under the weights after the last step; None if those are gone."""
    cpu = torch.device("cpu")
    replica = inputs.new_evaluator(cpu, inputs.config.scorer.precision)
    try:
        replica.load(last_weights(path, run.summary["steps"], replica.layout))
    except RunFolderError:
        return None

    def losses(indices: Indices) -> npt.NDArray[np.float32]:
        with threads(inputs.config.trainer.threads):
            return replica(inputs.train.read(indices, cpu)).losses.cpu().numpy()

    return losses


@dataclass(frozen=True)
class _Shower:
    """Makes examples of ranks [C] in the train split."""

    inputs: RunInputs
    past: History
    il: Array | None
    losses: _Losses | None

    def __call__(self, ranks: Ints) -> list[Example]:
        if not len(ranks):
            return []
        train, indices = self.inputs.train, ranks + self.inputs.train.start
        stored, labels = train.stored(indices), train.labels(indices)
        clean, origins = train.clean_labels(indices), _origins(train, indices)
        losses = None if self.losses is None else self.losses(indices)
        return [
            Example(
                int(indices[place]),
                int(labels[place]),
                None if clean is None else int(clean[place]),
                None if losses is None else float(losses[place]),
                None if self.il is None else float(self.il[rank]),
                int(self.past.seen[rank]),
                int(self.past.selected[rank]),
                origins[place],
                *_looks(stored[place], train.words),
            )
            for place, rank in enumerate(ranks)
        ]


def _origins(train: SplitPoints, indices: Indices) -> list[str]:
    """File, key or split of the source, and row; "" of a point whose origin is not known."""
    sources, rows = train.origins(indices)
    known = zip(sources, rows.filled(-1).tolist(), strict=True)
    return [
        "" if source is None else source if row < 0 else f"{source}, row {row}"
        for source, row in known
    ]


def _looks(value: Array, words: Mapping[int, str]) -> tuple[bytes | None, str]:
    """A picture of an input [C, H, W] of 1, 3 or 4 channels; else the words of its token ids, or
    its first numbers, as text."""
    if value.ndim == 3 and len(value) in (1, 3, 4) and min(value.shape[1:]) > 1:
        return thumbnail(_grey_levels(value), SIDE), ""
    flat = value.reshape(-1)
    if words:
        text = " ".join(words.get(token, "?") for token in np.trim_zeros(flat, "b").tolist())
        return None, shortened(text, CHARACTERS) or "(empty)"
    if flat.dtype.kind == "i":
        flat = flat[: max(1, len(np.trim_zeros(flat, "b")))]  # of tokens, zeros at the end pad
    more = " …" if len(flat) > NUMBERS else ""
    return None, " ".join(f"{number:.4g}" for number in flat[:NUMBERS].tolist()) + more


def _grey_levels(image: Array) -> npt.NDArray[np.uint8]:
    """uint8 as it is; other numbers stretched from their least to their greatest."""
    if image.dtype == np.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    return ((image - low) / max(high - low, 1e-9) * 255).astype(np.uint8)
