"""What a comparison is asked for, and the setting of one configuration in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rhoselect import config as configuration
from rhoselect.comparison.points import Points, Source
from rhoselect.config import Config
from rhoselect.errors import ConfigError, listed
from rhoselect.grids.recipes import assignments
from rhoselect.grids.spec import Scalar
from rhoselect.report.metric import Metric
from rhoselect.selection import get_function
from rhoselect.tasks import get_task

Train = Callable[[Mapping[str, Config]], None]
"""Trains runs in folders of these names, those that are not finished."""


@dataclass(frozen=True)
class Rules:
    """The rules of a comparison.

    ``budgets`` are steps of uniform batches or, ``in_seconds``, reference seconds. ``rates``
    multiply the configuration's trainer.lr. ``cleaned`` are shares of points to drop, the first
    with every rate. ``charged_runs`` share the irreducible losses of the charged arm.
    """

    budgets: tuple[float, ...]
    in_seconds: bool
    seeds: int
    rates: tuple[float, ...]
    validation: float
    cleaned: tuple[float, ...]
    charged_runs: int
    left_out: tuple[str, ...] = ()


class Setting:
    """A configuration of a comparison: ``name`` is that of its file, ``metric`` its task's."""

    def __init__(self, file: Path, sets: Sequence[str], rules: Rules, out: Path) -> None:
        self.name, self._file, self._sets = file.stem, file, tuple(sets)
        self.config = configuration.load(file, sets)
        task = get_task(self.config.task)
        self.metric = Metric(task.metric, task.direction)
        function, where = get_function(self.config.selection.function), f"{file}: selection"
        if (name := self.config.selection.function) in ("uniform", "infobatch"):
            raise ConfigError(
                f"{where}.function: got {name}, which is an arm already; allowed one to compare"
                " with it"
            )
        if function.needs.reference or function.needs.core_set:
            raise ConfigError(
                f"{where}.function: got {self.config.selection.function}, which needs il.weights or"
                " svp.table; allowed a function that needs il.table or nothing"
            )
        self.source = Source(self.config, rules.validation, out / "data" / self.name)
        if function.needs.il and self.source.table is None:
            raise ConfigError(
                f"{file}: il.table: missing, {self.config.selection.function} needs it; make one"
                " with 'rhoctl il fit'"
            )
        self.uses_il = function.needs.il

    def run(
        self, keys: Mapping[str, Scalar], points: Points, seed: int, steps: int, lr: float
    ) -> Config:
        """The configuration of one run: its rate falls to 0 at its last step, and that alone is
        tested. Raises ConfigError."""
        own: dict[str, Scalar] = {
            **keys,
            "seed": seed,
            "data.path": str(points.path),
            "trainer.steps": steps,
            "trainer.lr": lr,
            "trainer.schedule": "cosine",
            "trainer.eval_every": steps,
            "metrics.port": -1,
        }
        if points.table is not None:
            own["il.table"] = str(points.table)
        config = configuration.load(self._file, [*self._sets, *assignments(own)])
        if points.table is not None:
            return config
        return config.model_copy(update={"il": config.il.model_copy(update={"table": None})})


def settings_of(
    files: Sequence[Path], sets: Sequence[str], rules: Rules, out: Path
) -> list[Setting]:
    """The settings of all configurations. Raises UserError; writes nothing."""
    names = [file.stem for file in files]
    if len(set(names)) < len(names):
        raise ConfigError(f"configurations: got {listed(names)}, allowed files of different names")
    return [Setting(file, sets, rules, out) for file in files]
