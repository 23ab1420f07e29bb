"""The comparison: the sweep of each arm, then its final runs.

Every run is a folder under ``runs``. A comparison that is started again goes on with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rhoselect.comparison import reference
from rhoselect.comparison.arms import CLEAN, DISTINCT, HOLDOUT, Arm, Clock, arms_of
from rhoselect.comparison.rules import Rules, Setting, Train
from rhoselect.errors import ConfigError


@dataclass(frozen=True)
class Case:
    """A configuration at a budget: its arms, and why others are left out."""

    setting: Setting
    budget: str
    budget_s: float
    clock: Clock
    arms: list[Arm]
    left_out: dict[str, str]

    @property
    def name(self) -> str:
        """Its part of the names of run folders."""
        return f"{self.setting.name}-{self.budget}"


@dataclass(frozen=True)
class Chosen:
    """The learning rate that the sweep chose for an arm, whether it is the least or the greatest
    tried, the share that cleaning drops, and how many runs were tried."""

    lr: float
    at_edge: bool
    share: float
    trials: int


class Comparison:
    """A comparison in the folder ``out``; ``train`` trains runs below its folder ``runs``."""

    def __init__(self, settings: Sequence[Setting], rules: Rules, out: Path, train: Train) -> None:
        self._settings, self.rules, self._train = settings, rules, train
        self.out, self.runs = out, out / "runs"

    def cases(self) -> list[Case]:
        """All configurations at all budgets, by the reference's clock, which is measured first.
        Raises ConfigError for a budget of no step."""
        found = []
        for setting in self._settings:
            clock = reference.clock(setting, self.out, self._train)
            found += [self._case(setting, budget, clock) for budget in self.rules.budgets]
        return found

    def choose(self, case: Case, arm: Arm) -> Chosen:
        """Sweep the rates of an arm on the validation split."""
        rates, shares = self.rules.rates, self.rules.cleaned
        worth = case.setting.metric.worth
        first = shares[0] if arm.points == "clean" else 0.0
        found = {rate: self._validated(case, arm, rate, first) for rate in rates}
        best = max(rates, key=lambda rate: worth(found[rate]))
        others = shares[1:] if arm.points == "clean" else ()
        by_share = {share: self._validated(case, arm, best, share) for share in others}
        by_share[first] = found[best]
        share = max(by_share, key=lambda share: worth(by_share[share]))
        edge = len(rates) > 1 and best in (min(rates), max(rates))
        lr = best * case.setting.config.trainer.lr
        return Chosen(lr, edge, share, len(rates) + len(others))

    def finish(self, case: Case, chosen: Mapping[str, Chosen]) -> dict[str, list[float]]:
        """Train every arm with every seed; returns {arm: its final test figures, by seed}."""
        for seed in range(self.rules.seeds):
            for arm in case.arms:
                pick = chosen[arm.name]
                points = case.setting.source.make(arm.points, pick.share, tuned=False)
                config = case.setting.run(arm.keys, points, seed, arm.steps, pick.lr)
                self._train({self._final(case, arm, seed): config})
        return {
            arm.name: [
                self._figure(case, self._final(case, arm, seed)) for seed in range(self.rules.seeds)
            ]
            for arm in case.arms
        }

    def planned(self, case: Case) -> dict[str, float]:
        """The runs of a case by name, with their seconds on the reference machine."""
        runs = dict[str, float]()
        for arm in case.arms:
            first = self.rules.cleaned[0] if arm.points == "clean" else 0.0
            for rate in self.rules.rates:
                runs[self._trial(case, arm, rate, first)] = arm.steps * arm.step_s
            for share in self.rules.cleaned[1:] if arm.points == "clean" else ():
                runs[f"{case.name}-{arm.name}-tune-*-{share:g}"] = arm.steps * arm.step_s
            for seed in range(self.rules.seeds):
                runs[self._final(case, arm, seed)] = arm.steps * arm.step_s
        return runs

    def is_finished(self, name: str) -> bool:
        """Whether a run that ``planned`` names has ended; * stands for the rate that is chosen."""
        return any(self.runs.glob(f"{name}/summary.json"))

    def _validated(self, case: Case, arm: Arm, rate: float, share: float) -> float:
        points = case.setting.source.make(arm.points, share, tuned=True)
        lr = rate * case.setting.config.trainer.lr
        name = self._trial(case, arm, rate, share)
        self._train({name: case.setting.run(arm.keys, points, reference.SEED, arm.steps, lr)})
        return self._figure(case, name)

    def _trial(self, case: Case, arm: Arm, rate: float, share: float) -> str:
        dropped = f"-{share:g}" if arm.points == "clean" else ""
        return f"{case.name}-{arm.name}-tune-{rate:g}{dropped}"

    def _final(self, case: Case, arm: Arm, seed: int) -> str:
        return f"{case.name}-{arm.name}-{seed}"

    def _figure(self, case: Case, name: str) -> float:
        text = (self.runs / name / "summary.json").read_text("utf-8")
        return float(json.loads(text)[f"final_{case.setting.metric.name}"])

    def _case(self, setting: Setting, budget: float, clock: Clock) -> Case:
        rules, source = self.rules, setting.source
        seconds = budget if rules.in_seconds else budget * clock.uniform_s
        il = (setting.uses_il, source.table is not None)
        everything = arms_of(setting.config, clock, seconds, rules.charged_runs, il)
        if everything[0].steps < 1:
            raise ConfigError(
                f"--budget: got {budget:g} s, allowed at least one step, which takes"
                f" {clock.uniform_s:.2g} s on the reference machine ({setting.name})"
            )
        left_out = dict.fromkeys(rules.left_out, "asked for with --without")
        if not source.has_holdout:
            left_out[HOLDOUT] = "the data set has no holdout"
        if not source.has_copies():
            left_out[DISTINCT] = "the train split has no exact duplicates"
        if source.table is None:
            left_out[CLEAN] = "there is no il.table"
        for arm in everything:
            if arm.steps < 1:
                left_out[arm.name] = (
                    f"the irreducible losses ({clock.il_s:.3g} s, shared by"
                    f" {rules.charged_runs} runs) and a step do not fit into {seconds:.3g} s"
                )
        arms = [arm for arm in everything if arm.name not in left_out]
        label = f"{budget:g}s" if rules.in_seconds else f"{budget:g}"
        return Case(setting, label, seconds, clock, arms, left_out)
