"""Label noise, and a test split and a holdout taken from the training points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rhoselect.data.base import Mask
from rhoselect.errors import DataError
from rhoselect.importers.recipe import HOLDOUT, NOISE, TEST, Parts, Recipe


def noisy_with_holdout(parts: Parts, classes: int, recipe: Recipe) -> Parts:
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
    seed = recipe.noise_seed if recipe.holdout_seed is None else recipe.holdout_seed
    held = _drawn("holdout", recipe.holdout, len(train.labels), [seed, HOLDOUT])
    return {"train": train.rows(~held), "holdout": train.rows(held), "test": parts["test"]}


def with_test(parts: Parts, recipe: Recipe) -> Parts:
    """A random fraction of train moved to test; both keep their order."""
    if "test" in parts:
        raise DataError("test: got a fraction, but the source has a test split; drop the flag")
    train = parts["train"]
    drawn = _drawn("test", recipe.test, len(train.labels), [recipe.noise_seed, TEST])
    return {**parts, "train": train.rows(~drawn), "test": train.rows(drawn)}


def _drawn(name: str, fraction: float, total: int, seed: Sequence[int]) -> Mask:
    """Which of ``total`` points a random fraction is. Raises DataError for none and for all."""
    count = round(fraction * total)
    if not 0 < count < total:
        raise DataError(
            f"{name}: got {fraction} of {total} training points, which leaves one side empty"
        )
    drawn = np.zeros(total, bool)
    drawn[np.random.default_rng(seed).permutation(total)[:count]] = True
    return drawn
