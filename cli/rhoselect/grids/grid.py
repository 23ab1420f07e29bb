"""From an experiment's file to the runs of its grid."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rhoselect.errors import ConfigError, faults, listed, shortened
from rhoselect.grids.spec import Arm, Group, Scalar, Spec


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
            f"experiment: got {name!r}, allowed a .toml file or one of {listed(everything)}"
        )
    return folder / f"{found[0]}.toml"


def load(path: Path) -> Spec:
    """The experiment in a TOML file. Raises ConfigError."""
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"experiment {path}: cannot be read as TOML: {error}") from None
    try:
        return Spec.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"experiment {path}: {faults(map(_fault, error.errors()))}") from None


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


def _fault(error: ErrorDetails) -> tuple[str, str]:
    """The key, and what is wrong with it; no key if that says which one."""
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "value_error":
        return "", str(error["ctx"]["error"])
    if error["type"] == "missing":
        return where, "missing; every experiment has it"
    if error["type"] == "extra_forbidden":
        return where, "unknown key; benchmarks/paper/README.md lists those allowed"
    return where, f"got {shortened(repr(error['input']), 100)}; {error['msg'].lower()}"
