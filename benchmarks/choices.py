"""Rules that choose points of a window, each against the n_b of greatest reducible loss.

Fashion-MNIST, half of it holdout; an MLP of 2 x 512 learns 32 of 320 points a step by AdamW, at a
rate that falls to 0 along a cosine. Rates are chosen on the first seed by the accuracy on a tenth
of the train split, which no run learns from and whose labels are as wrong. All rules have the same
windows and initial weights with one seed, and the same steps. `choosing.py` says what a rule does.

A rule is worth shipping if its mean gain is over two standard errors in at least two cells.

A run is a file in --folder: the same command goes on where it was interrupted, and several at a
time, of one thread each, share the runs.

    python benchmarks/choices.py --json docs/results/choices.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import arguments
import proxy
from choosing import CLASSES, RULES, Cell, Descent, Ground, Points, learn, losses_under
from harness import locked, show, write
from rhoselect.compute import keep_memory
from rhoselect.data import ArrowDataset
from rhoselect.data.il_table import read_table
from rhoselect.files import replacing

Figures = dict[str, Any]
NOISES = (0.0, 0.1, 0.4)
CELLS = [*(Cell(noise, 300) for noise in NOISES), Cell(0.1, 300, "copies")]
CELLS += [*(Cell(noise, 1000) for noise in (0.1, 0.4, 0.0)), Cell(0.1, 1000, "rare")]
QUICK = [Cell(0.1, 4), Cell(0.1, 4, "copies"), Cell(0.1, 4, "rare")]
RATES = (1e-3, 3e-3)
GAMMA = 10.0
"""The weight of its class in a model of REDUCR: that of its own experiments."""
TOP = "top"
PAIRS = [(rule, TOP) for rule in RULES if rule != TOP]
PAIRS += [("2 n_b weighted", "2 n_b"), ("REDUCR", "REDUCR, simplified")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/choices"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no run after these")
    options = arguments.parse(parser, seeds=[0, 1])
    deadline = time.monotonic() + 60 * options.minutes
    torch.set_num_threads(1)
    keep_memory()
    cells = QUICK if options.quick else CELLS
    runs = Runs(options.folder, options.quick, options.seeds)
    made = runs.finish(cells, options.rules)
    while time.monotonic() < deadline and next(made, None):
        write(options.json, figures(runs, cells))
    found = figures(runs, cells)
    write(options.json, found)
    for name in ("comparisons", "verdicts"):
        show(name, found[name], list(found[name][0]) if found[name] else [])


@dataclass(frozen=True)
class Run:
    cell: Cell
    rule: str
    lr: float
    seed: int

    @property
    def file(self) -> str:
        return re.sub(r"[^\w.]+", "-", f"{self.cell} {self.rule} {self.lr:g} {self.seed}") + ".json"


@dataclass(frozen=True)
class Runs:
    """Those in a folder. Rates are chosen on the first of ``seeds``."""

    folder: Path
    quick: bool
    seeds: Sequence[int]

    def finish(self, cells: Sequence[Cell], rules: Sequence[str]) -> Iterator[Run]:
        """Make what is missing, cell after cell; yields what this process made."""
        for cell in cells:
            while missing := [run for run in self._wanted(cell, rules) if not self.result(run)]:
                for run in missing:
                    lock = self.folder / "locks" / run.file
                    # Waits for another process only where nothing else is left to do.
                    with locked(lock, wait=run is missing[-1]) as mine:
                        if mine and not self.result(run):
                            self._make(run)
                            yield run

    def _wanted(self, cell: Cell, rules: Sequence[str]) -> Iterator[Run]:
        """The sweeps of a cell, and what they allow."""
        for rule, lr in itertools.product(rules, RATES):
            yield Run(cell, rule, lr, self.seeds[0])
        for seed, rule in itertools.product(self.seeds[1:], rules):
            if lr := self.rate(cell, rule):
                yield Run(cell, rule, lr, seed)

    def _make(self, run: Run) -> None:
        ground = ground_of(self.folder, run.cell.noise, self.quick)
        found = learn(ground, run.cell, run.rule, run.lr, run.seed)
        with replacing(self.folder / run.file) as beside:
            beside.write_text(json.dumps(found))

    def result(self, run: Run) -> Figures | None:
        path = self.folder / run.file
        return json.loads(path.read_text()) if path.exists() else None

    def rate(self, cell: Cell, rule: str) -> float | None:
        """The best of RATES on the validation points, once all were tried."""
        found = {lr: self.result(Run(cell, rule, lr, self.seeds[0])) for lr in RATES}
        tried = {lr: each["validation"] for lr, each in found.items() if each is not None}
        return max(tried, key=tried.__getitem__) if len(tried) == len(RATES) else None

    def results(self, cell: Cell, rule: str) -> dict[int, Figures]:
        """The results at the chosen rate, by seed."""
        if (lr := self.rate(cell, rule)) is None:
            return {}
        found = {seed: self.result(Run(cell, rule, lr, seed)) for seed in self.seeds}
        return {seed: each for seed, each in found.items() if each is not None}


@lru_cache(1)
def ground_of(folder: Path, noise: float, quick: bool) -> Ground:
    """That with ``noise`` of the labels wrong; what is missing is made below ``folder``."""
    with locked(folder / "locks" / f"ground-{noise:g}"):
        made = proxy.Ground(folder, noise, quick).settings(proxy.Arm(16 if quick else 256))
        dataset = ArrowDataset.open(made["data.path"])
        points, holdout, test = (read(dataset, split) for split in ("train", "holdout", "test"))
        losses = folder / f"class-il-{noise:g}.npy"
        if not losses.exists():
            found = class_losses(holdout, points, *((16, 1) if quick else (256, 3)))
            with replacing(losses) as beside, beside.open("wb") as file:
                np.save(file, found.numpy())
    span, kept = dataset.splits["train"], len(points[1]) * 9 // 10
    table = read_table(Path(made["il.table"]), dataset.fingerprint, span)
    return Ground(
        points=(points[0][:kept], points[1][:kept]),
        il=torch.from_numpy(table.at(np.arange(span[0], span[0] + kept))),
        class_il=torch.from_numpy(np.load(losses)[:kept]),
        holdout=(holdout[0][:2000], holdout[1][:2000]),
        validation=(points[0][kept:], points[1][kept:]),
        test=test,
    )


def read(dataset: ArrowDataset, split: str) -> Points:
    rows = dataset.split(split)
    batch = rows.read(rows.indices, torch.device("cpu"))
    return batch.inputs.flatten(1), batch.labels


def class_losses(holdout: Points, points: Points, width: int, epochs: int) -> Tensor:
    """Losses [N, K] of ``points`` under K models, which learn ``holdout`` by the recipe of the
    irreducible losses, but each with the weight GAMMA for the points of one class."""
    found = []
    for mine in range(CLASSES):
        random = torch.Generator().manual_seed(mine)
        orders = (torch.randperm(len(holdout[1]), generator=random) for _ in range(epochs))
        batches = [rows for order in orders for rows in order.split(128)]
        descent = Descent(holdout, width, mine, 3e-3, len(batches))
        weights = torch.where(torch.arange(CLASSES) == mine, GAMMA, 1.0)
        for rows in batches:
            logits = descent.model(holdout[0][rows])
            descent.step(F.cross_entropy(logits, holdout[1][rows], weights))
        with torch.no_grad():
            found.append(losses_under(descent.model, points))
    return torch.stack(found, dim=1)


def figures(runs: Runs, cells: Sequence[Cell]) -> Figures:
    """Results, what each rule gains over another one, and what follows."""
    rows = []
    for cell, rule in itertools.product(cells, RULES):
        if found := runs.results(cell, rule):
            row = {"cell": str(cell), **asdict(cell), "rule": rule, "lr": runs.rate(cell, rule)}
            names = ("accuracy", "worst_class")
            values = {name: [each[name] for each in found.values()] for name in names}
            rows.append({**row, "seeds": list(found), **values})
    pairs = itertools.product(PAIRS, cells)
    gains = [gain(runs, cell, *pair) for pair, cell in pairs]
    known = [each for each in gains if each is not None]
    return {"rows": rows, "comparisons": known, "verdicts": verdicts(known)}


def gain(runs: Runs, cell: Cell, rule: str, base: str) -> Figures | None:
    """Points of accuracy of ``rule`` above ``base``, mean and standard error, by seeds that both
    have, three or more."""
    mine, other = runs.results(cell, rule), runs.results(cell, base)
    seeds = [seed for seed in mine if seed in other]
    if len(seeds) < 3:
        return None
    found: Figures = {"rule": rule, "base": base, "cell": str(cell), "seeds": len(seeds)}
    for name in ("accuracy", "worst_class"):
        each = [100 * (mine[seed][name] - other[seed][name]) for seed in seeds]
        error = statistics.stdev(each) / math.sqrt(len(each))
        found |= {name: statistics.mean(each), f"{name}_error": error}
    return found


def verdicts(gains: Sequence[Figures]) -> list[Figures]:
    """What the rule in this module's first lines says of each rule: in how many cells it wins and
    loses."""
    found = []
    for pair in dict.fromkeys((each["rule"], each["base"]) for each in gains):
        mine = [each for each in gains if (each["rule"], each["base"]) == pair]
        won = sum(each["accuracy"] > 2 * each["accuracy_error"] for each in mine)
        lost = sum(each["accuracy"] < -2 * each["accuracy_error"] for each in mine)
        counts = {"cells": len(mine), "won": won, "lost": lost, "passes": won >= 2}
        found.append({"rule": pair[0], "base": pair[1], **counts})
    return found


if __name__ == "__main__":
    main()
