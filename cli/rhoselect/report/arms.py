"""Runs of one arm, which differ in their seed alone; and what arms differ in beside selection."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import fmean, stdev

from rhoselect.config import is_free
from rhoselect.report.runs import Run

SECTIONS = ("data.", "augment.", "model.", "trainer.", "selection.n_b", "selection.n_B")
"""Settings that arms should share, or their comparison says more than which selection is better."""
NO_CONDITIONS = frozenset(
    {
        "trainer.publish_every",
        "trainer.checkpoint_every",
        "trainer.keep_checkpoints",
        "trainer.targets",
    }
)
"""Settings of these sections that belong to the selection, or that change no accuracy."""
PLACES = frozenset({"data.path", "il.table", "il.weights", "model.weights", "svp.table"})
"""Settings that say where inputs are; their content is in ``Run.inputs_sha256``."""
SHOWN = 6
"""Arms that a warning names at most."""


@dataclass(frozen=True)
class Spread:
    """A figure over the seeds of an arm: mean and sample standard deviation of those that have it
    (``known`` of ``seeds``)."""

    mean: float | None
    deviation: float
    known: int
    seeds: int

    def text(self, show: Callable[[float], str], none: str = "never") -> str:
        """Mean and deviation; ``none`` if no seed has the figure; how many have it if some have
        none, whose mean would be too good."""
        if self.mean is None:
            return none
        if self.known < self.seeds:
            return f"{self.known} of {self.seeds} seeds"
        return show(self.mean) + (f" ± {show(self.deviation)}" if self.seeds > 1 else "")

    @property
    def sure(self) -> float | None:
        """The mean, if every seed has the figure."""
        return self.mean if self.known == self.seeds else None


def spread(values: Sequence[float | None]) -> Spread:
    """The spread of a figure, None where a seed has none."""
    known = [value for value in values if value is not None]
    mean = fmean(known) if known else None
    return Spread(mean, stdev(known) if len(known) > 1 else 0.0, len(known), len(values))


@dataclass(frozen=True)
class Arm:
    """Runs with the same settings but for the seed, each of another seed."""

    name: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """The run that stands for the arm where one has to."""
        return self.runs[0]

    def over_seeds(self, figure: Callable[[Run], float | None]) -> Spread:
        """The spread of a figure."""
        return spread([figure(run) for run in self.runs])


def arms_of(runs: Sequence[Run]) -> list[Arm]:
    """The arms in the order of their first runs. A run of a seed that is there already is an arm of
    its own, as it says nothing on spread."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    times: Counter[tuple[object, ...]] = Counter()
    for run in runs:
        settings = {k: v for k, v in run.settings.items() if not is_free(k)}
        alike = sorted(f"{k}={v}" for k, v in settings.items() if k not in {"seed", *PLACES})
        # Without settings there is no evidence that runs are alike.
        group = (run.summary["method"], run.kind, run.inputs_sha256, *(alike or [run.name]))
        seed = run.summary["seed"]
        groups.setdefault((times[group, seed], *group), []).append(run)
        times[group, seed] += 1
    names = Counter(_name(group) for group in groups.values())
    return [
        Arm(_name(group, alone=names[_name(group)] == 1), tuple(group)) for group in groups.values()
    ]


def _name(runs: Sequence[Run], alone: bool = True) -> str:
    """Of one run its name; of several what their names begin with, if that is ``alone`` with its
    name, and how many they are."""
    if len(runs) == 1:
        return runs[0].name
    if not alone:
        return f"{runs[0].name} and {len(runs) - 1} more seeds"
    alike = takewhile(
        lambda letters: len(set(letters)) == 1, zip(*(r.name for r in runs), strict=False)
    )
    common = re.sub(r"[-_.]*(seed|s)?[-_.=]*\d*$", "", "".join(first for first, *_ in alike))
    return f"{common or runs[0].summary['method']} ({len(runs)} seeds)"


def differences(arms: Sequence[Arm]) -> list[str]:
    """What arms differ in beside their selection, a line each."""
    lines = list[str]()
    known = [arm for arm in arms if arm.first.settings]
    if len(arms) > 1 and len(known) < len(arms):
        names = _some([arm.name for arm in arms if not arm.first.settings])
        lines.append(f"settings: not known of {names}, so they cannot be compared")
    for name, key in (("model", "model.factory"), ("optimizer", "trainer.lr")):
        ours = [arm.name for arm in known if arm.first.obeyed(key)]
        theirs = [arm.name for arm in known if not arm.first.obeyed(key)]
        if ours and theirs:
            lines.append(f"{name}: the configuration's ({_some(ours)}); a loop's ({_some(theirs)})")
    conditions = [_conditions(arm.first, known) for arm in known]
    for key in sorted({key for each in conditions for key in each}):
        values: dict[str, list[str]] = {}
        for arm, each in zip(known, conditions, strict=True):
            if arm.first.obeyed(key):
                values.setdefault(each.get(key, "unset"), []).append(arm.name)
        if len(values) > 1:
            lines.append(f"{key}: " + _some([f"{v} ({_some(n)})" for v, n in values.items()], "; "))
    return lines


def _conditions(run: Run, arms: Sequence[Arm]) -> Mapping[str, str]:
    """The settings of a run that others should share; the content of its data, where runs tell it,
    in place of its path or module."""
    found = {
        key: value
        for key, value in run.settings.items()
        if key.startswith(SECTIONS)
        and key not in NO_CONDITIONS
        and (key in PLACES or not is_free(key))
    }
    if all("data_fingerprint" in arm.first.summary for arm in arms):
        for place in ("data.path", "data.dataset"):
            found.pop(place, None)
        found["data (content)"] = str(run.summary["data_fingerprint"])[:12] or "not known"
    return found


def _some(names: Sequence[str], joint: str = ", ") -> str:
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return joint.join([*names[:SHOWN], *more])
