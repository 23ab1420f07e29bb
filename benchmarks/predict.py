"""Which figure, known before a run, tells whether its irreducible losses are good enough?

Fashion-MNIST, half of it holdout. Tables come from MLPs and a small CNN that learnt many or few
points of the holdout, for long or not; their last weights count. With each table an MLP of 2 x 512
trains by RHO-LOSS, 32 of 320 points a step, at a rate that falls from 1e-3 to 0 along a cosine. Its
*gain* is in test accuracy over a uniform run of as many steps, initial weights and windows. The
predictors and how they are judged: see predictors.py.

One core. Runs are kept in --folder, and what is there is not run again.

    python benchmarks/predict.py --json docs/results/predict.json
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

import arguments
from curves import import_data
from harness import show, write
from predictors import Arrays, Row, chosen_elsewhere, judged, predictors
from rhoselect.data import ArrowDataset
from rhoselect.models import mlp, small_cnn

N_B, N_WINDOW, WINDOWS, BATCH = 32, 320, 10, 128
Points = tuple[Tensor, Tensor]
COLUMNS = ("predictor", "needs", "within", "pooled", "errors", "clear_errors", "threshold")
CELL_COLUMNS = ("noise", "table", "low_il", "accuracy", "lead", "purity", "gain")


@dataclass(frozen=True)
class Table:
    """Of an MLP of ``width``, or of the small CNN (0), and so many ``points`` of the holdout."""

    width: int
    points: int
    epochs: int

    def __str__(self) -> str:
        network = f"MLP of width {self.width}" if self.width else "small CNN"
        return f"{network}, {self.points} points, {self.epochs} passes"


TABLES = [
    *(Table(4, 300, 100), Table(4, 30_000, 3), Table(16, 3000, 2), Table(16, 30_000, 3)),
    *(Table(64, 300, 20), Table(64, 3000, 10), Table(64, 30_000, 3), Table(256, 300, 200)),
    *(Table(256, 3000, 60), Table(256, 30_000, 3), Table(256, 30_000, 12), Table(0, 3000, 10)),
    Table(0, 30_000, 2),
]
QUICK = [Table(4, 300, 2), Table(64, 1000, 4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.1, 0.4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--warm", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=Path("runs/predict"))
    options = arguments.parse(parser, noise=[0.1, 0.4], seeds=[0, 1], steps=30, warm=10)
    if min(len(options.noise), len(options.seeds)) < 2:
        parser.error("--noise, --seeds: got one value, allowed two or more of each")
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    grounds = [Runs(options, noise) for noise in options.noise]
    cells = list(itertools.product(grounds, QUICK if options.quick else TABLES))
    for seed, (runs, table) in track(list(itertools.product(options.seeds, cells)), "runs"):
        runs.pair(table, seed)
    rows = [runs.cell(table) for runs, table in cells]
    seconds = sum(float(each["seconds"]) for runs in grounds for each in runs.known.values())
    spread = np.mean([np.var(row["gains"], ddof=1) for row in rows]) ** 0.5
    error = float(spread) / math.sqrt(len(options.seeds))
    found = [judged(name, rows, error) for name in rows[0]["predictors"]]
    show("predictors", found, COLUMNS)
    show("tables", [{**row, **row["predictors"]} for row in rows], CELL_COLUMNS)
    about = {name: getattr(options, name) for name in ("steps", "warm", "seeds")}
    about |= {"core_minutes": seconds / 60, "gain_error": error}
    kept = {"predictors": found, "chosen_elsewhere": chosen_elsewhere(rows), "rows": rows}
    write(options.json, {**about, **kept})


class Runs:
    """Tables and runs at one level of ``noise``, each made once."""

    def __init__(self, options: argparse.Namespace, noise: float) -> None:
        self._options, self._folder, self._noise = options, options.folder, noise
        self.known: dict[str, Arrays] = {}

    @cached_property
    def ground(self) -> Ground:
        path = self._folder / f"data-{self._noise:g}"
        if not path.exists():
            import_data(path, self._noise, self._options.quick)
        return Ground(path)

    def cell(self, table: Table) -> Row:
        """Gains by seed, and means over the seeds of all else."""
        trios = [self.pair(table, seed) for seed in self._options.seeds]
        told = [predictors(*trio) for trio in trios]
        gains = [float(selected["final"] - uniform["final"]) for _, uniform, selected in trios]
        means = {name: float(np.mean([each[name] for each in told])) for name in told[0]}
        return {
            "noise": self._noise,
            "table": str(table),
            "gain": float(np.mean(gains)),
            "gains": gains,
            "uniform": float(np.mean([uniform["final"] for _, uniform, _ in trios])),
            "purity": float(np.mean([selected["purity"] for *_, selected in trios])),
            "predictors": means,
        }

    def pair(self, table: Table, seed: int) -> tuple[Arrays, Arrays, Arrays]:
        """A table, a uniform run, and one by RHO-LOSS."""
        stem = f"{self._noise:g}-{table.width}-{table.points}-{table.epochs}"
        fitted = self._kept(f"il-{stem}", lambda ground: fit(ground, table))
        uniform = self._run(f"{self._noise:g}", seed, None)
        return fitted, uniform, self._run(stem, seed, fitted["il"])

    def _run(self, stem: str, seed: int, il: np.ndarray | None) -> Arrays:
        steps, warm = self._options.steps, self._options.warm
        name = f"run-{stem}-{seed}-{steps}-{warm}"
        return self._kept(name, lambda ground: run(ground, seed, steps, warm, il))

    def _kept(self, name: str, make: Callable[[Ground], Arrays]) -> Arrays:
        """What ``make`` gave, now or in an earlier call of the benchmark."""
        path, beside = (self._folder / f"{name}{end}.npz" for end in ("", ".new"))
        if not path.exists():
            ground, began = self.ground, time.process_time()
            made = make(ground)
            np.savez(beside, **made, seconds=time.process_time() - began)
            beside.rename(path)
        if name not in self.known:
            with np.load(path) as found:
                self.known[name] = dict(found)
        return self.known[name]


class Ground:
    """The points of a folder in memory, and of which train points the label is ``right`` [N]."""

    def __init__(self, path: Path) -> None:
        dataset, cpu = ArrowDataset.open(str(path)), torch.device("cpu")
        train = dataset.split("train")
        splits = [train, dataset.split("holdout"), dataset.split("test")]
        read = [split.read(split.indices, cpu) for split in splits]
        self.train, self.holdout, self.test = ((each.inputs, each.labels) for each in read)
        given, clean = train.labels(train.indices), train.clean_labels(train.indices)
        self.right = torch.from_numpy(given == (given if clean is None else clean))


class Learner:
    """A network whose rate falls from ``lr`` to 0 along a cosine over ``steps``."""

    def __init__(self, network: nn.Module, lr: float, steps: int) -> None:
        self.network = network
        self._optimizer = torch.optim.AdamW(network.parameters(), lr=lr, fused=True)
        self._decay = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, steps)

    def step(self, points: Points) -> None:
        self._optimizer.zero_grad()
        F.cross_entropy(self.network(points[0]), points[1]).backward()
        self._optimizer.step()
        self._decay.step()

    @torch.no_grad()
    def judge(self, points: Points) -> tuple[Tensor, Tensor, Tensor]:
        """Of each point the loss, the probability of the likeliest label, and whether that is the
        given one, [N] each."""
        logits = torch.cat([self.network(part) for part in points[0].split(1000)])
        confidence, guess = logits.softmax(1).max(1)
        losses = F.cross_entropy(logits, points[1], reduction="none")
        return losses, confidence, guess == points[1]


def network(ground: Ground, width: int) -> nn.Module:
    shape = tuple(ground.train[0].shape[1:])
    if width:
        return mlp(input_shape=shape, classes=10, width=width)
    return small_cnn(input_shape=shape, classes=10)


def fit(ground: Ground, table: Table) -> Arrays:
    """A table's losses ``il`` of the train points, and what else ``judge`` says of them."""
    torch.manual_seed(0)
    inputs, labels = ground.holdout
    learnt = torch.randperm(len(labels))[: table.points]
    steps = table.epochs * math.ceil(len(learnt) / BATCH)
    learner = Learner(network(ground, table.width), 3e-3, steps)
    for _ in range(table.epochs):
        for batch in learnt[torch.randperm(len(learnt))].split(BATCH):
            learner.step((inputs[batch], labels[batch]))
    il, confidence, right = learner.judge(ground.train)
    return {"il": il.numpy(), "confidence": confidence.numpy(), "right": right.numpy()}


def windows_of(points: int, seed: int, count: int) -> Tensor:
    """The candidates of ``count`` windows, [count, 320]: a new order in each pass."""
    shuffle = torch.Generator().manual_seed(seed)
    passes = math.ceil(count * N_WINDOW / points)
    order = torch.cat([torch.randperm(points, generator=shuffle) for _ in range(passes)])
    return order[: count * N_WINDOW].view(count, N_WINDOW)


def run(ground: Ground, seed: int, steps: int, warm: int, il: np.ndarray | None) -> Arrays:
    """A run to its end, by RHO-LOSS if there are irreducible losses. After ``warm`` steps it notes
    the next ten ``windows`` [10, 320], their ``losses`` and the ``accuracy`` on given labels."""
    torch.manual_seed(seed)
    learner = Learner(network(ground, 512), 1e-3, steps)
    windows = windows_of(len(ground.right), seed, steps)
    table, picked, young = None if il is None else torch.from_numpy(il), list[Tensor](), Arrays()
    for step, window in enumerate(windows):
        if step == warm:
            ahead = windows[warm : warm + WINDOWS]
            losses, _, right = learner.judge(points_of(ground.train, ahead.flatten()))
            young = {"windows": ahead.numpy(), "losses": losses.view(ahead.shape).numpy()}
            young["accuracy"] = mean(right)
        chosen = window[:N_B]
        if table is not None:
            losses, *_ = learner.judge(points_of(ground.train, window))
            chosen = window[(losses - table[window]).topk(N_B).indices]
        picked.append(chosen)
        learner.step(points_of(ground.train, chosen))
    *_, right = learner.judge(ground.test)
    return {**young, "final": mean(right), "purity": mean(ground.right[torch.cat(picked)])}


def points_of(points: Points, indices: Tensor) -> Points:
    return points[0][indices], points[1][indices]


def mean(flags: Tensor) -> np.ndarray:
    return flags.double().mean().numpy()


if __name__ == "__main__":
    main()
