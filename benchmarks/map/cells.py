"""The cells of the map: noise x copies x budget x target, and what is trained in each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rhoselect.comparison.arms import Arm, uniform_keys
from rhoselect.config import Config

HERE = Path(__file__).resolve().parent
BUDGETS = ("short", "long")
UNIFORM, LONGER, RHO = ARMS = ("uniform", "uniform_seconds", "rho_loss")
"""Uniform batches in as many steps as RHO-LOSS; in as many device-seconds, and on the holdout, too;
RHO-LOSS."""
SMALL_CNN = ("--model", "rhoselect.models:small_cnn")
SMALL_MLP = ("--model", "rhoselect.models:mlp", "--set", "model.args.width=256")


@dataclass(frozen=True)
class Target:
    """A model with its data: ``steps`` and ``seeds`` of a cell, the options of ``rhoctl il fit``,
    and how many steps are timed. ``data`` names the data (``grounds.py``), which have ``noises``
    (None: as they are) and ``copies``. ``sweeps`` are the budgets with a sweep of rates of their
    own; another one takes the rates of the first. Cells of ``later`` copies are run last."""

    name: str
    title: str
    data: str
    steps: tuple[int, int]
    seeds: int
    il: tuple[str, ...]
    timed_steps: int
    noises: tuple[float | None, ...] = (None,)
    copies: tuple[int, ...] = (1,)
    sweeps: tuple[str, ...] = ("short",)
    later: tuple[int, ...] = ()

    @property
    def file(self) -> Path:
        """Its configuration, without data."""
        return HERE / f"{self.name}.toml"


NOISES = (0.0, 0.1, 0.4)
TARGETS = (
    Target(
        *("mlp", "MLP", "fashion", (1000, 3000), 5, SMALL_MLP, 200),
        noises=NOISES,
        copies=(1, 5),
        sweeps=BUDGETS,
    ),
    Target(
        *("resnet", "ResNet-18, width 8", "fashion", (300, 900), 3, SMALL_CNN, 40),
        noises=NOISES,
        copies=(1, 5),
        later=(5,),
    ),
    Target(
        *("gpt", "GPT, 1.1 M", "prose", (500, 1500), 3),
        (
            *("--set", "task.name=prose:Prose", "--model", "examples.gpt_debian:gpt"),
            *("--set", "model.args.width=64", "--epochs", "2", "--batch", "32"),
            *("--set", "trainer.lr=4e-3"),
        ),
        20,
    ),
    Target(
        *("minilm", "MiniLM, LoRA", "sections", (200, 600), 3),
        (
            *("--model", "examples.debian_sections:words", "--epochs", "4", "--batch", "64"),
            *("--set", "trainer.lr=1e-2"),
        ),
        20,
    ),
)
TINY = Target(
    *("tiny", "tiny MLP", "fashion", (6, 12), 2),
    (
        *("--model", "rhoselect.models:mlp", "--set", "model.args.width=16"),
        *("--epochs", "1", "--batch", "256"),
    ),
    20,
    (0.1,),
    (1, 5),
)
"""That of --quick."""


@dataclass(frozen=True)
class Cell:
    """A target with its data at a budget."""

    target: Target
    noise: float | None
    copies: int
    budget: str

    @property
    def ground(self) -> str:
        """The part of the name that says which target and data: those share a folder."""
        noise = "" if self.noise is None else f"-noise{100 * self.noise:g}"
        return f"{self.target.name}{noise}{'x5' if self.copies == 5 else ''}"

    @property
    def name(self) -> str:
        return f"{self.ground}-{self.budget}"

    @property
    def steps(self) -> int:
        """Those of RHO-LOSS."""
        return self.target.steps[BUDGETS.index(self.budget)]

    @property
    def swept(self) -> Cell:
        """The cell that the learning rates are from: data without copies, as a copy of a point that
        was learnt tells nothing of a rate."""
        sweeps = self.target.sweeps
        budget = self.budget if self.budget in sweeps else sweeps[0]
        return Cell(self.target, self.noise, 1, budget)


def cells_of(targets: Iterable[Target]) -> list[Cell]:
    """All cells in the order in which they are run."""
    found = [
        Cell(target, noise, copies, budget)
        for target in targets
        for copies in target.copies
        for noise in target.noises
        for budget in BUDGETS
    ]
    return sorted(found, key=lambda cell: cell.copies in cell.target.later)


@dataclass(frozen=True)
class Costs:
    """Device-seconds: processor time on one core, of a step of uniform batches, of a step of
    RHO-LOSS with its scoring, and of the fit of irreducible losses; on which ``machine``."""

    uniform_s: float
    selection_s: float
    il_s: float
    machine: dict[str, object]

    @classmethod
    def stored(cls, path: Path, target: Target) -> Costs | None:
        """Those of a target in a file of all, if they were measured."""
        known = json.loads(path.read_text("utf-8")) if path.exists() else {}
        return cls(**known[target.name]) if target.name in known else None

    def of(self, arm: str, steps: int) -> float:
        """Those of a run."""
        if arm == RHO:
            return steps * self.selection_s + self.il_s
        return steps * self.uniform_s

    def arms(self, config: Config, steps: int) -> list[Arm]:
        """The arms of a cell in which RHO-LOSS takes ``steps`` steps."""
        plain = uniform_keys(config.selection.n_b)
        longer = int(self.of(RHO, steps) / self.uniform_s)
        return [
            Arm(UNIFORM, steps, self.uniform_s, plain),
            Arm(LONGER, longer, self.uniform_s, plain, "joined"),
            Arm(RHO, steps, self.selection_s, {}, scores=True, il=True),
        ]
