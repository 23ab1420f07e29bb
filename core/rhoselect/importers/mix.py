"""A recipe applied: test, noise and holdout, then relevance, ambiguous points and duplicates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from rhoselect.data.base import Labels, Span
from rhoselect.data.manifest import Array, Duplicates
from rhoselect.errors import DataError
from rhoselect.importers.columns import Columns
from rhoselect.importers.noise import noisy_with_holdout, with_test
from rhoselect.importers.recipe import AMBIGUOUS, RELEVANCE, Parts, Recipe
from rhoselect.types import Indices


@dataclass(frozen=True)
class Mixed:
    """The columns of the splits; which classes were kept in full; in which rows of a split its
    ambiguous points are; how train was duplicated."""

    parts: Parts
    relevant_classes: tuple[int, ...] | None = None
    ambiguous: Mapping[str, Span] = field(default_factory=dict)
    duplicates: Duplicates | None = None


def apply_recipe(parts: Parts, classes: int, recipe: Recipe) -> Mixed:
    """The splits with everything that ``recipe`` asks for. Raises DataError."""
    if recipe.test:
        parts = with_test(parts, recipe)
    parts = noisy_with_holdout(parts, classes, recipe)
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
    none = np.full(count, -1)
    return Columns(inputs, chosen, none, None if part.clean is None else chosen)
