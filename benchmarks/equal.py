"""Accuracy in given seconds on 17 emulated devices: RHO-LOSS against uniform selection, each in all
of its layouts. Learning is real, Fashion-MNIST with wrong labels; rates fall to 0.

A device is full with 32 points: k devices that train take batches of 32 k, in the 100 ms of one. A
forward takes .26 / 3 of that a point. Nothing is charged for sums and messages, to either. The rate
of a layout is the one of three that is best in the second longest budget, on the first seed. Points
selected depend neither on devices nor on processes, so each run is one process.

``seconds``: after what budget, of all between those that were tried, a layout has the accuracy of
the best uniform one in the longest budget; ``with_il``: and the fit of the irreducible losses, at
its FLOPs on all devices.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cases import MODELS
from curves import Ground, learn, make_ground

Row = dict[str, Any]
DEVICES, N_B, RATIO, TRAIN_S, FACTOR = 17, 32, 10, 0.1, 0.26
LRS = (1e-3, 2e-3, 4e-3)
MODEL = MODELS["tiny"]
STEP_FLOPS = 6 * 118_282 * N_B  # on one device: its numbers, forward and backward
COLUMNS = ("noise", "layout", "step_ms", "lr", "accuracies", "seconds", "with_il")


@dataclass(frozen=True)
class Arm:
    """``ranks`` train, ``scoring`` processes score; none: uniform."""

    ranks: int
    scoring: int

    def __str__(self) -> str:
        if not self.scoring:
            return f"uniform, {self.ranks} train"
        others = DEVICES - self.ranks
        told = f"{others} others score" if self.scoring > self.ranks else "they score"
        return f"RHO-LOSS, {self.ranks} train, {told}"

    @property
    def step_s(self) -> float:
        scored_s = TRAIN_S / 3 * FACTOR * RATIO * self.ranks
        return TRAIN_S + (scored_s / self.scoring if self.scoring else 0.0)


ARMS = (
    [Arm(k, 0) for k in (1, 4, 16)] + [Arm(k, DEVICES - k + 1) for k in (1, 4, 8)] + [Arm(16, 16)]
)


class Runs:
    """Runs on one data set, two at a time, each made once."""

    def __init__(self, folder: Path, ground: Ground, seeds: list[int]) -> None:
        self._folder, self._ground, self.seeds = folder, ground, seeds
        self._pool = ThreadPoolExecutor(2)
        self._made: dict[Any, Any] = {}

    def accuracy(self, arm: Arm, budget_s: float, lr: float, seed: int) -> Any:
        """A future: the accuracy at the end."""
        what = (arm, budget_s, lr, seed)
        if what not in self._made:
            run = self._folder / f"{self._ground.noise:g}-{len(self._made)}"
            self._made[what] = self._pool.submit(self._accuracy, run, *what)
        return self._made[what]

    def _accuracy(self, run: Path, arm: Arm, budget_s: float, lr: float, seed: int) -> float:
        n_b = N_B * arm.ranks
        settings = {
            **self._ground.settings,
            "seed": seed,
            "model.factory": MODEL["model"]["factory"],
            "model.args": MODEL["model"]["args"],
            "selection.function": "reducible_loss" if arm.scoring else "uniform",
            "selection.n_b": n_b,
            "selection.n_B": RATIO * n_b,
            "selection.chunk": min(640, RATIO * n_b),
            "scorer.precision": "fp32",
            "trainer.lr": lr,
            "trainer.schedule": "cosine",
            "trainer.steps": round(budget_s / arm.step_s),
            "trainer.eval_every": 1_000_000,
            "trainer.checkpoint_every": 1_000_000,
        }
        return learn(run, settings).accuracies[-1]

    def rate(self, arm: Arm, budget_s: float) -> float:
        """The best of ``LRS``."""
        tried = {lr: self.accuracy(arm, budget_s, lr, self.seeds[0]) for lr in LRS}
        return max(tried, key=lambda lr: float(tried[lr].result()))

    def row(self, arm: Arm, lr: float, budgets: list[float]) -> Row:
        """Mean accuracies by budget."""
        asked = {b: [self.accuracy(arm, b, lr, s) for s in self.seeds] for b in budgets}
        means = {f"{b:g}": statistics.mean(f.result() for f in asked[b]) for b in budgets}
        return {"layout": str(arm), "step_ms": 1e3 * arm.step_s, "lr": lr, "accuracies": means}


def rows(options: argparse.Namespace) -> list[Row]:
    """A row for each noise and layout."""
    found: list[Row] = []
    il_model, il_args = MODEL["il"]
    with tempfile.TemporaryDirectory() as scratch:
        for noise in options.noise:
            ground = make_ground(Path(scratch), noise, il_model, il_args, options.quick)
            runs = Runs(Path(scratch), ground, options.seeds)
            # The data of --quick have windows for few ranks only.
            arms = [arm for arm in ARMS if arm.ranks <= 4 or not options.quick]
            found += rows_of(runs, arms, ground, options.budgets)
    return found


def rows_of(runs: Runs, arms: list[Arm], ground: Ground, budgets: list[float]) -> list[Row]:
    """Those of one data set."""
    for arm in arms:  # all at work from now on
        for lr in LRS:
            runs.accuracy(arm, budgets[-2], lr, runs.seeds[0])
    made = {arm: runs.row(arm, runs.rate(arm, budgets[-2]), budgets) for arm in arms}
    target = max(r["accuracies"][f"{budgets[-1]:g}"] for a, r in made.items() if not a.scoring)
    for arm, row in made.items():
        row["seconds"] = reached_s(row["accuracies"], target)
        il_s = ground.il_flops / STEP_FLOPS * TRAIN_S / DEVICES if arm.scoring else 0.0
        row["with_il"] = None if row["seconds"] is None else row["seconds"] + il_s
    return [{"noise": ground.noise, "target": target, **row} for row in made.values()]


def reached_s(accuracies: dict[str, float], target: float) -> float | None:
    """The budget at which a layout gets to ``target``, between those tried by their logarithms."""
    before: tuple[float, float] | None = None
    for name, accuracy in accuracies.items():
        budget = float(name)
        if accuracy >= target:
            if before is None:
                return budget
            share = (target - before[1]) / (accuracy - before[1])
            return math.exp(math.log(before[0]) + share * math.log(budget / before[0]))
        before = budget, accuracy
    return None
