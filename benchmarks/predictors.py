"""Figures that may tell, before a run, what its irreducible losses are worth; how they are judged.

A predictor needs the table and its model alone, or also the target after a short uniform warm-up,
or two short trials, one by selected batches. None needs clean labels. More is better:

- low_il: minus the mean irreducible loss
- accuracy: the share of given labels that the table's model guesses
- calibrated: minus its calibration error, in 15 bins of confidence
- lead: the mean loss of the target after the warm-up, minus the mean irreducible loss
- told: what the table's model knows more than a guess over what the target knows, in nats
- ahead: ``accuracy``, minus that of the target
- ratio: ``accuracy`` over that of the target (thought of after the others had been seen)
- positive: the share of candidates with a positive reducible loss
- rank: the rank correlation of irreducible losses and the target's losses
- kept: of the points that would be picked, the share whose label has more than half of the
  probability of the table's model
- trial: the accuracy on given labels after selected steps, minus that after as many uniform ones
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rhoselect.selector.audit import spearman

BINS = 15
Arrays = dict[str, np.ndarray]
Row = dict[str, Any]
OF_TABLE = ("low_il", "accuracy", "calibrated")


def predictors(fitted: Arrays, uniform: Arrays, selected: Arrays) -> Row:
    """Those of a table and a seed: of the candidates after the warm-up, ``windows`` [W, n_B] with
    the target's ``losses`` [W, n_B]. A tenth of each window is picked."""
    il, young = fitted["il"][uniform["windows"]], uniform["losses"]
    order = np.argsort(il - young, axis=1)[:, : il.shape[1] // 10]
    picks, guess = np.take_along_axis(il, order, axis=1), math.log(10)
    return {
        "low_il": -float(fitted["il"].mean(dtype=np.float64)),
        "accuracy": float(fitted["right"].mean()),
        "calibrated": -calibration_error(fitted["confidence"], fitted["right"]),
        "lead": float(young.mean() - il.mean()),
        "told": float((guess - il.mean()) / (guess - young.mean())),
        "ahead": float(fitted["right"].mean() - uniform["accuracy"]),
        "ratio": float(fitted["right"].mean() / uniform["accuracy"]),
        "positive": float((young > il).mean()),
        "rank": spearman(il.ravel(), young.ravel()),
        "kept": float((picks < math.log(2)).mean()),
        "trial": float(selected["accuracy"] - uniform["accuracy"]),
    }


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """The mean distance of confidence from accuracy, over the points, in bins of confidence."""
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    apart = np.bincount(place, confidence.astype(float) - right, BINS)
    return float(np.abs(apart).sum() / len(right))


def judged(name: str, rows: list[Row], error: float) -> Row:
    """How well a predictor tells the gains. Rank correlations: ``within`` levels of noise, their
    mean, and of all rows; ``errors``: wrong signs at each level with the threshold of the others,
    ``clear_errors`` where a gain is beyond two standard ``error``s."""
    values, gains, noises = columns(name, rows)
    levels = np.unique(noises)
    cuts = {
        level: threshold(*(each[noises != level] for each in (values, gains))) for level in levels
    }
    told = values > np.array([cuts[level] for level in noises])
    missed, clear = told != (gains > 0), np.abs(gains) > 2 * error
    ranks = [spearman(values[noises == level], gains[noises == level]) for level in levels]
    return {
        "predictor": name,
        "needs": "table" if name in OF_TABLE else "trial" if name == "trial" else "warm-up",
        "within": float(np.mean(ranks)),
        "pooled": spearman(values, gains),
        "errors": int(missed.sum()),
        "clear_errors": int((missed & clear).sum()),
        "threshold": threshold(values, gains),
    }


def chosen_elsewhere(rows: list[Row]) -> list[Row]:
    """At each level of noise, the predictor with the fewest wrong signs at the others (of several,
    that of the highest rank correlation), and its wrong signs here."""
    found = []
    for level in sorted({row["noise"] for row in rows}):
        others = [row for row in rows if row["noise"] != level]
        here = [row for row in rows if row["noise"] == level]
        known = {name: columns(name, others) for name in rows[0]["predictors"]}
        cuts = {name: threshold(*known[name][:2]) for name in known}
        best = min(known, key=lambda n: (wrong(*known[n][:2], cuts[n]), -spearman(*known[n][:2])))
        values, gains, _ = columns(best, here)
        row = {"noise": level, "predictor": best, "threshold": cuts[best]}
        found.append(row | {"errors": wrong(values, gains, cuts[best])})
    return found


def columns(name: str, rows: list[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A predictor's values, gains and noise, of all rows."""
    told = [(row["predictors"][name], row["gain"], row["noise"]) for row in rows]
    values, gains, noises = np.array(told).T
    return values, gains, noises


def threshold(values: np.ndarray, gains: np.ndarray) -> float:
    """The value above which a gain is told, with the fewest wrong signs, in the widest gap."""
    ordered = np.unique(values)
    edges = np.concatenate([ordered[:1] - 1e-6, ordered, ordered[-1:] + 1e-6])
    cuts, gaps = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    errors = [wrong(values, gains, cut) for cut in cuts]
    return float(cuts[np.lexsort((-gaps, errors))[0]])


def wrong(values: np.ndarray, gains: np.ndarray, cut: float) -> int:
    """How many signs of ``gains`` a threshold tells wrong."""
    return int(((values > cut) != (gains > 0)).sum())
