"""What an experiment is: groups x arms x seeds in one TOML file, every key checked.

A *group* is a setting in which arms are compared (a data set and a model), an *arm* is a method: a
name and configuration keys, as in ``rhoctl train --set``. Recipes say how the data sets, the
irreducible losses and the proxies are made that the groups and arms name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from rhoselect.config import Section
from rhoselect.errors import ConfigError

Scalar = bool | int | float | str
Name = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
Measure = Literal[
    "speedup",
    "best_accuracy",
    "final_accuracy",
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
    accuracies."""

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
    """Curves of accuracy against steps, or bars of ``measures``; a panel a group either way."""

    kind: Literal["accuracy", "bars"] = "accuracy"
    measures: list[Measure] = Field(default_factory=list)


class PaperRow(Section):
    """A published figure: what it is of, and its value in the paper's words."""

    what: str
    value: str


class Paper(Section):
    """The paper's own setting and figures; ``source`` says how they were checked."""

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
                raise ValueError(f"{what}: got {', '.join(names)}, allowed each name once")
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


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    group: Group
    arm: Arm
    seed: int
    data: str
    il: str | None
    set: dict[str, Scalar]

    @property
    def name(self) -> str:
        """The run folder's name."""
        return f"{self.group.name}-{self.arm.name}-{self.seed}"


def cells(spec: Spec, seeds: Sequence[int]) -> list[Cell]:
    """The grid, in the order of running: of every seed all arms, so that an interrupted grid has
    whole comparisons. Raises ConfigError if it is empty."""
    grid = []
    for seed in seeds:
        for group in spec.group:
            for arm in spec.arm:
                if arm.groups and group.name not in arm.groups:
                    continue
                keys = {**spec.base, **group.set, **arm.set, "seed": seed}
                data, il = arm.data or group.data, arm.il or group.il
                grid.append(Cell(group, arm, seed, data, il, keys))
    if not grid:
        raise ConfigError(
            f"experiment {spec.title!r}: its grid is empty ({len(seeds)} seeds,"
            f" {len(spec.group)} groups, {len(spec.arm)} arms); allowed at least one run"
        )
    return grid


def names(folder: Path) -> list[str]:
    """The experiments in ``folder``. Raises ConfigError if there are none."""
    found = sorted(path.stem for path in folder.glob("*.toml"))
    if not found:
        reason = "has no experiments" if folder.is_dir() else "no such folder"
        raise ConfigError(
            f"--specs {folder}: {reason}; allowed a folder of .toml files, such as benchmarks/paper"
            " in a checkout of rhoselect (an installed package does not contain it)"
        )
    return found


def find(name: str, folder: Path) -> Path:
    """The file of an experiment: ``name`` is a .toml file, or the name of one in ``folder``.

    A name may be cut short where one experiment alone begins so, as in "table2". Raises
    ConfigError.
    """
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return path
    everything = names(folder)
    found = [n for n in everything if n == name] or [
        n for n in everything if n.startswith(f"{name}_")
    ]
    if len(found) != 1:
        raise ConfigError(
            f"experiment: got {name!r}, allowed a .toml file or one of {', '.join(everything)}"
        )
    return folder / f"{found[0]}.toml"


def load(path: Path) -> Spec:
    """The experiment in a TOML file. Raises ConfigError."""
    try:
        tree = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"experiment {path}: cannot be read as TOML: {error}") from None
    try:
        return Spec.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"experiment {path}: {_one_line(error)}") from None


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    if first["type"] == "missing":
        return f"{where}: missing; every experiment has it"
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key; docs/experiments.md lists those allowed"
    return f"{where}: got {first['input']!r}; {first['msg'].lower()}"


def _known(where: str, name: str | None, allowed: Sequence[str] | dict[str, Any]) -> None:
    if name is not None and name not in allowed:
        raise ValueError(f"{where}: got {name!r}, allowed {', '.join(allowed) or 'none'}")
