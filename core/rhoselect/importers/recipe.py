"""What is put into a data set on its way to disk: label noise, a holdout, and a mix of points.

Everything is drawn from ``noise_seed``, each kind of thing from a stream of its own, so that one
option does not change what another one draws. In this order: noise, holdout, relevance, ambiguous
points, duplicates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from rhoselect.data.base import Labels, Span
from rhoselect.data.manifest import Array, Duplicates, Pairs
from rhoselect.errors import DataError
from rhoselect.importers.columns import ORDER, Columns
from rhoselect.types import Indices

NOISE, HOLDOUT, RELEVANCE, AMBIGUOUS = range(4)
"""What a stream of random numbers is for."""
Parts = Mapping[str, Columns]


@dataclass(frozen=True)
class Recipe:
    """Options of ``write_dataset``.

    ``label_noise`` = P: each label of train and holdout becomes, independently with probability P,
    one of the *other* classes, uniformly; with ``noise_pairs`` ((from, to), …) a label ``from``
    becomes ``to``, and classes that are no ``from`` keep theirs (structured noise between
    confusable classes, Rolnick et al. 2017). The true one is kept in ``clean_label``.
    ``holdout_noise`` is P for the holdout, if it is to differ: 0 keeps its labels clean.

    ``holdout`` moves that random fraction of train into the split "holdout" (``holdout_seed``
    defaults to ``noise_seed``). The noise is drawn before, so a point has the same label whatever
    the fraction.

    ``relevance`` = (K, share) keeps K random classes in full and ``share`` of each other class, by
    true label, in the splits ``relevance_splits`` (the paper's CIFAR100-Relevance, where 80% of the
    data come from 20% of the classes, is (20, 0.0625)).

    ``ambiguous`` = A appends A times as many points as there are to train and holdout, each the
    mean of two of the split's points of different classes, with the true label of either at random.

    ``duplicates`` = K: a ``duplicate_share`` of the points of train is there K times in all.
    """

    label_noise: float = 0.0
    noise_seed: int = 0
    noise_pairs: Pairs = ()
    holdout_noise: float | None = None
    holdout: float = 0.0
    holdout_seed: int | None = None
    relevance: tuple[int, float] | None = None
    relevance_splits: tuple[str, ...] = ORDER
    ambiguous: float = 0.0
    duplicates: int = 1
    duplicate_share: float = 1.0

    def check(self) -> None:
        """Raises DataError for a fraction, a seed, a number or a pair that makes no sense."""
        self._check_noise()
        for name, seed in (("noise", self.noise_seed), ("holdout", self.holdout_seed or 0)):
            if seed < 0:
                raise DataError(f"{name} seed: got {seed}, allowed 0 or more")
        if not 0 <= self.ambiguous < 10:
            raise DataError(f"ambiguous: got {self.ambiguous}, allowed a share in [0, 10)")
        if self.duplicates < 1 or not 0 < self.duplicate_share <= 1:
            raise DataError(
                f"duplicates: got {self.duplicates} of a share {self.duplicate_share}, allowed 1 or"
                " more times, of a share in (0, 1]"
            )
        if self.relevance is not None and not (
            self.relevance[0] >= 1 and 0 < self.relevance[1] <= 1
        ):
            raise DataError(
                f"relevance: got {self.relevance}, allowed 1 or more classes in full and a share in"
                " (0, 1] of the others"
            )
        if unknown := sorted(set(self.relevance_splits) - set(ORDER)):
            raise DataError(f"relevance splits: got {unknown[0]!r}, allowed {', '.join(ORDER)}")

    def _check_noise(self) -> None:
        fractions = {
            "label noise": self.label_noise,
            "holdout noise": self.holdout_noise or 0.0,
            "holdout": self.holdout,
        }
        for name, value in fractions.items():
            if not 0 <= value < 1:
                raise DataError(f"{name}: got {value}, allowed a fraction in [0, 1)")
        if self.noise_pairs and not (self.label_noise or self.holdout_noise):
            raise DataError("noise pairs: got pairs without label noise, allowed with, such as 0.5")
        sources = [pair[0] for pair in self.noise_pairs]
        if len(set(sources)) < len(sources) or any(
            a == b or min(a, b) < 0 for a, b in self.noise_pairs
        ):
            raise DataError(
                f"noise pairs: got {list(self.noise_pairs)}, allowed (from, to) of two classes,"
                " each class at most once as the first"
            )


@dataclass(frozen=True)
class Mixed:
    """The columns of the splits; which classes were kept in full; in which rows of a split its
    ambiguous points are; how train was duplicated."""

    parts: Parts
    relevant_classes: tuple[int, ...] | None = None
    ambiguous: Mapping[str, Span] = field(default_factory=dict)
    duplicates: Duplicates | None = None


def mixed(parts: Parts, classes: int, recipe: Recipe) -> Mixed:
    """The splits as ``recipe`` wants them. Raises DataError."""
    parts = _noisy_with_holdout(parts, classes, recipe)
    relevant: tuple[int, ...] | None = None
    ambiguous: dict[str, Span] = {}
    duplicates: Duplicates | None = None
    if recipe.relevance is not None:
        parts, relevant = _with_relevance(parts, classes, recipe)
    if recipe.ambiguous:
        parts, ambiguous = _with_ambiguous(parts, recipe)
    if recipe.duplicates > 1:
        train = parts["train"]
        points = len(train.labels)
        copied = max(1, round(recipe.duplicate_share * points))
        duplicates = Duplicates(
            times=recipe.duplicates, points=points, copied=copied, seed=recipe.noise_seed
        )
        rows = duplicates.originals(np.arange(duplicates.rows))
        parts = {**parts, "train": train.rows(rows)}
    return Mixed(parts, relevant, ambiguous, duplicates)


def _noisy_with_holdout(parts: Parts, classes: int, recipe: Recipe) -> Parts:
    """Label noise, and the holdout; the latter with noise of its own if there is to be."""
    p_train, p_holdout = recipe.label_noise, recipe.label_noise
    if recipe.holdout_noise is not None:
        p_holdout = recipe.holdout_noise
    versions = [parts, parts]
    if p_train or p_holdout:
        versions = [with_noise(parts, classes, p, recipe) for p in (p_train, p_holdout)]
    if recipe.holdout:
        versions = [with_holdout(version, recipe) for version in versions]
    train, held = versions
    if "holdout" in train:
        return {**train, "holdout": held["holdout"]}
    if recipe.holdout_noise is not None:
        raise DataError(
            f"holdout noise: got {recipe.holdout_noise}, but there is no holdout; give --holdout"
        )
    return train


def with_noise(parts: Parts, classes: int, probability: float, recipe: Recipe) -> Parts:
    """Labels of train and holdout replaced, each with ``probability``; of a greater one a superset
    of those of a smaller one."""
    if classes < 2:
        raise DataError("label noise: got 1 class, allowed 2 or more, to have another one to take")
    if beyond := [pair for pair in recipe.noise_pairs if max(pair) >= classes]:
        raise DataError(f"noise pairs: got {beyond[0]}, allowed classes 0 to {classes - 1}")
    random = np.random.default_rng([recipe.noise_seed, NOISE])
    partner = np.arange(classes)
    for source, target in recipe.noise_pairs:
        partner[source] = target
    noisy = {}
    for name, part in parts.items():
        labels = part.labels
        if name != "test":
            wrong = random.random(len(labels)) < probability
            step = random.integers(1, classes, len(labels))
            other = partner[labels] if recipe.noise_pairs else (labels + step) % classes
            labels = np.where(wrong, other, labels)
        noisy[name] = replace(part, labels=labels, clean=part.true_labels)
    return noisy


def with_holdout(parts: Parts, recipe: Recipe) -> Parts:
    """A random fraction of train moved to holdout; both keep their order."""
    if "holdout" in parts:
        raise DataError(
            "holdout: got a fraction, but the source has a holdout split; drop the flag"
        )
    train = parts["train"]
    total = len(train.labels)
    count = round(recipe.holdout * total)
    if not 0 < count < total:
        raise DataError(
            f"holdout: got {recipe.holdout} of {total} training points, which leaves one side empty"
        )
    seed = recipe.noise_seed if recipe.holdout_seed is None else recipe.holdout_seed
    held = np.zeros(total, bool)
    held[np.random.default_rng([seed, HOLDOUT]).permutation(total)[:count]] = True
    return {"train": train.rows(~held), "holdout": train.rows(held), "test": parts["test"]}


def _with_relevance(parts: Parts, classes: int, recipe: Recipe) -> tuple[Parts, tuple[int, ...]]:
    assert recipe.relevance is not None
    kept, share = recipe.relevance
    if kept >= classes:
        raise DataError(
            f"relevance: got {kept} classes in full, allowed 1 to {classes - 1} of {classes}"
        )
    random = np.random.default_rng([recipe.noise_seed, RELEVANCE])
    relevant = np.sort(random.permutation(classes)[:kept])
    made = {}
    for name, part in parts.items():
        made[name] = part
        if name in recipe.relevance_splits:
            rows = np.flatnonzero(_kept(part.true_labels, relevant, share, random))
            if len(rows) == 0:
                raise DataError(f"relevance: leaves no point of {name}; raise the share")
            made[name] = part.rows(rows)
    return made, tuple(relevant.tolist())


def _kept(labels: Labels, relevant: Array, share: float, random: np.random.Generator) -> Array:
    """Mask [R]: all points of the classes ``relevant``, and that share of each other class."""
    keep = np.isin(labels, relevant)
    for label in np.setdiff1d(labels, relevant):
        rows = np.flatnonzero(labels == label)
        keep[random.permutation(rows)[: round(share * len(rows))]] = True
    return keep


def _with_ambiguous(parts: Parts, recipe: Recipe) -> tuple[Parts, dict[str, Span]]:
    random = np.random.default_rng([recipe.noise_seed, AMBIGUOUS])
    made, spans = dict(parts), {}
    for name in [name for name in parts if name != "test"]:
        part = parts[name]
        if part.inputs.dtype.kind not in "uf":
            raise DataError("ambiguous: got inputs without a mean, allowed images or floats, raw")
        rows = len(part.labels)
        count = round(recipe.ambiguous * rows)
        made[name] = part.joined(_ambiguous(part, count, random))
        spans[name] = (rows, rows + count)
    return made, spans


def _ambiguous(part: Columns, count: int, random: np.random.Generator) -> Columns:
    """``count`` means of two points of different classes each, labelled as either of them."""
    rows, labels = len(part.labels), part.true_labels
    if (labels == labels[0]).all():
        raise DataError("ambiguous: got points of 1 class, allowed of 2 or more")
    one, other = random.integers(0, rows, (2, count))
    while (alike := labels[one] == labels[other]).any():
        other[alike] = random.integers(0, rows, int(alike.sum()))
    inputs = np.empty((count, *part.inputs.shape[1:]), part.inputs.dtype)
    for place in range(count):  # row by row: the sum of all would need twice their memory in float
        pair = part.inputs[[one[place], other[place]]]
        inputs[place] = pair.mean(axis=0)
    chosen: Indices = np.where(random.random(count) < 0.5, labels[one], labels[other])
    return Columns(inputs, chosen, None if part.clean is None else chosen)
