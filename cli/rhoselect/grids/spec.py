"""What an experiment is: groups x arms x seeds in one TOML file, every key checked.

A *group* is a setting in which arms are compared (a data set and a model), an *arm* is a method: a
name and configuration keys, as in ``rhoctl train --set``. Recipes say how the data sets, the
irreducible losses and the proxies are made that the groups and arms name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rhoselect.config import Section
from rhoselect.errors import listed

Scalar = bool | int | float | str
Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
Measure = Literal[
    "speedup",
    "best_metric",
    "final_metric",
    "best_accuracy",
    "final_accuracy",
    "drop",
    "worst_class_accuracy",
    "corrupted_share",
    "corrupted_share_late",
    "correct_share",
    "correct_share_below",
    "relevant_share",
    "repeat_share",
]


class DataRecipe(Section):
    """A data set: ``options`` are those of ``importers.import_dataset(kind, src, dst, ...)``."""

    kind: str
    src: str = "auto"
    options: dict[str, Any] = Field(default_factory=dict)


class ProxyRecipe(Section):
    """A small model and how it is trained; ``set`` are configuration keys of the fit."""

    model: str = "rhoselect.models:small_cnn"
    set: dict[str, Scalar] = Field(default_factory=dict)
    epochs: int = Field(5, ge=1)
    batch: int = Field(64, ge=1)


class IlRecipe(ProxyRecipe):
    """Irreducible losses: of a model of the holdout, or cross-fitted in ``folds`` folds."""

    epochs: int = Field(3, ge=1)
    batch: int = Field(128, ge=1)
    patience: int = Field(0, ge=0)
    folds: int | None = Field(None, ge=2)


class Group(Section):
    """A setting: data, irreducible losses and core-sets by the name of their recipe, keys, target
    values of the metric."""

    name: Name
    data: str
    il: str | None = None
    svp: str | None = None
    set: dict[str, Scalar] = Field(default_factory=dict)
    targets: list[float] = Field(default_factory=list)


class Arm(Section):
    """A method. ``data`` and ``il`` stand in for the group's; ``groups`` limits where it runs."""

    name: Name
    set: dict[str, Scalar] = Field(default_factory=dict)
    data: str | None = None
    il: str | None = None
    groups: list[str] = Field(default_factory=list)


class FigureSpec(Section):
    """Curves of the metric against steps, or bars of ``measures``; a panel a group either way."""

    kind: Literal["curves", "bars"] = "curves"
    measures: list[Measure] = Field(default_factory=list)


class PaperRow(Section):
    """A published figure: what it is of, and its value in the paper's words."""

    what: str
    value: str


class Paper(Section):
    """The paper's own setting and figures; ``source`` says where they were read."""

    shows: str
    setting: str
    source: str
    rows: list[PaperRow] = Field(default_factory=list)


class Claim(Section):
    """A finding of the paper as a bound on a measured median, or on its ratio to that of arm
    ``of``. ``why`` explains a disagreement."""

    text: str
    group: str
    arm: str
    measure: Measure
    of: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    why: str = ""

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("claim: set exactly one of at_least and at_most")
        return self


class Spec(Section):
    """An experiment, as its file has it."""

    title: str
    baseline: str = "uniform"
    seeds: list[int] = Field(default_factory=lambda: [0, 1, 2])
    shortened: str = Field(description="what was made smaller than in the paper")
    data: dict[str, DataRecipe]
    il: dict[str, IlRecipe] = Field(default_factory=dict)
    svp: dict[str, ProxyRecipe] = Field(default_factory=dict)
    base: dict[str, Scalar] = Field(default_factory=dict)
    group: list[Group]
    arm: list[Arm]
    figure: FigureSpec = FigureSpec()
    paper: Paper
    claim: list[Claim] = Field(default_factory=list)

    @model_validator(mode="after")
    def _names(self) -> Self:
        groups, arms = [g.name for g in self.group], [a.name for a in self.arm]
        for what, names in (("group", groups), ("arm", arms)):
            if len(set(names)) < len(names):
                raise ValueError(f"{what}: got {listed(names)}, allowed each name once")
        places: list[Group | Arm] = [*self.group, *self.arm]
        for place in places:
            _known(f"{place.name}: data", place.data, self.data)
            _known(f"{place.name}: il", place.il, self.il)
        for group in self.group:
            _known(f"{group.name}: svp", group.svp, self.svp)
        for arm in self.arm:
            for name in arm.groups:
                _known(f"{arm.name}: groups", name, groups)
        _known("baseline", self.baseline, arms)
        for claim in self.claim:
            _known("claim: group", claim.group, groups)
            _known("claim: arm", claim.arm, arms)
            _known("claim: of", claim.of, arms)
        return self


def _known(where: str, name: str | None, allowed: Sequence[str] | dict[str, Any]) -> None:
    if name is not None and name not in allowed:
        raise ValueError(f"{where}: got {name!r}, allowed {listed(allowed)}")
