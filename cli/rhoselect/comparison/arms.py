"""The arms of a comparison, how many steps each has, and what they cost in each ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rhoselect.config import Config
from rhoselect.grids.spec import Scalar

Subset = Literal["train", "joined", "distinct", "clean"]
"""Which points an arm trains on: the train split; with the holdout; without exact duplicates;
without those of the highest irreducible losses."""
Ledger = Literal["free", "one", "many"]
"""Who pays for scoring and irreducible losses: nobody, the one device, a trainer and W scorers."""
LEDGERS: tuple[Ledger, ...] = ("free", "one", "many")
UNIFORM, HOLDOUT, WIDE = "uniform", "uniform_holdout", "uniform_wide"
DISTINCT, CLEAN, INFOBATCH, CHARGED = "deduplicated", "cleaned", "infobatch", "charged"
OPTIONAL = (HOLDOUT, WIDE, DISTINCT, CLEAN, INFOBATCH, CHARGED)
"""Arms that a comparison may leave out."""


@dataclass(frozen=True)
class Clock:
    """Median seconds of a step on the reference machine, alone in one process: of uniform batches
    of n_b points and of (1 + W) n_b, and of the selection with its scoring; and those of the fit
    of the irreducible losses."""

    uniform_s: float
    wide_s: float
    selection_s: float
    il_s: float


@dataclass(frozen=True)
class Arm:
    """A method with its budget: ``steps``, each of ``step_s`` in one process. ``scores``: it scores
    candidates; ``il``: it uses irreducible losses; ``wide``: it has the scorers' devices."""

    name: str
    steps: int
    step_s: float
    keys: Mapping[str, Scalar]
    points: Subset = "train"
    scores: bool = False
    il: bool = False
    wide: bool = False


def scorers_of(config: Config) -> int:
    """W, the scorers that hide scoring behind training: a forward is a third of a step."""
    return -(-config.selection.n_B // (3 * config.selection.n_b))


def selection_name(config: Config) -> str:
    """The name of the arm of the configuration's own selection, with scoring free."""
    return "".join(c if c.isalnum() else "_" for c in config.selection.function).lower()


def uniform_keys(n_b: int) -> dict[str, Scalar]:
    """Uniform batches of ``n_b`` points, each point once an epoch."""
    keys: dict[str, Scalar] = {"selection.function": "uniform", "scorer.proxy": ""}
    keys |= {f"selection.{name}": 0 for name in ("lag", "shortlist", "audit_every")}
    return keys | {f"selection.{name}": n_b for name in ("n_b", "n_B", "chunk")}


def arms_of(
    config: Config, clock: Clock, budget_s: float, charged_runs: int, il: tuple[bool, bool]
) -> list[Arm]:
    """All arms for ``budget_s`` seconds of uniform steps. ``il``: whether the selection uses
    irreducible losses, and whether the configuration has some. An arm may have 0 steps."""
    name, (selects_il, has_il), n_b = selection_name(config), il, config.selection.n_b
    steps = int(budget_s / clock.uniform_s + 1e-9)
    left_s = budget_s - selects_il * clock.il_s / charged_runs
    charged = max(0, int(left_s / clock.selection_s))
    plain, wide = uniform_keys(n_b), uniform_keys((1 + scorers_of(config)) * n_b)
    arms = [
        Arm(UNIFORM, steps, clock.uniform_s, plain),
        Arm(HOLDOUT, steps, clock.uniform_s, plain, "joined"),
        Arm(WIDE, steps, clock.wide_s, wide, wide=True),
        Arm(DISTINCT, steps, clock.uniform_s, plain, "distinct"),
        Arm(INFOBATCH, steps, clock.uniform_s, {**plain, "selection.function": "infobatch"}),
        Arm(name, steps, clock.selection_s, {}, scores=True, il=selects_il),
        Arm(CHARGED, charged, clock.selection_s, {}, scores=True, il=selects_il),
    ]
    if has_il:
        arms.insert(4, Arm(CLEAN, steps, clock.uniform_s, plain, "clean", il=True))
    return arms


def cost(arm: Arm, clock: Clock, ledger: Ledger, runs: int, scorers: int) -> tuple[float, float]:
    """Seconds and device-seconds of a run of ``arm``, whose irreducible losses ``runs`` runs share.

    With many devices scoring goes on beside training, and a wide batch is trained on by all.
    """
    train_s = arm.steps * clock.uniform_s
    if ledger == "free":
        return train_s, train_s * (1 + scorers if arm.wide else 1)
    il_s = clock.il_s / runs if arm.il else 0.0
    score_s = arm.steps * max(0.0, clock.selection_s - clock.uniform_s) if arm.scores else 0.0
    if ledger == "one":
        alone_s = il_s + (arm.steps * clock.wide_s if arm.wide else train_s + score_s)
        return alone_s, alone_s
    devices = 1 + scorers if arm.wide or arm.scores else 1
    side_by_side_s = max(train_s, score_s / scorers)
    return il_s + side_by_side_s, il_s + devices * side_by_side_s
