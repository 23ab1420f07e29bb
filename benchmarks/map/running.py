"""Trains what is missing of a cell. Several processes may do so side by side."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from cells import ARMS, RHO, UNIFORM, Cell, Costs, Target
from grounds import Grounds, Prose, losses_of
from rich.console import Console
from table import Earlier, entry

from harness import locked
from rhoselect.cli.run import execute
from rhoselect.comparison.arms import Clock, uniform_keys
from rhoselect.comparison.protocol import Case, Chosen, Comparison
from rhoselect.comparison.rules import Rules, Setting
from rhoselect.config import Config
from rhoselect.files import replacing
from rhoselect.grids import runner
from rhoselect.inputs import RunInputs
from rhoselect.report.origin import origin
from rhoselect.trainer.runfolder import RunFolder

RATES = (0.3, 1.0, 3.0)
"""Learning rates that every arm tries, as multiples of the configuration's."""
VALIDATION = 0.1
FEW_STEPS = 4
CONSOLE = Console(highlight=False, markup=False, soft_wrap=True)


class TimeIsUpError(Exception):
    """No other run may begin."""


@dataclass(frozen=True)
class Runs:
    """The runs of all cells below ``folder``; none begins after ``deadline`` (monotonic seconds).
    ``costs``: the file of device-seconds. ``known``: earlier results, whose rates are kept."""

    folder: Path
    grounds: Grounds
    costs: Path
    deadline: float
    known: Earlier = field(hash=False)

    def finish(self, cell: Cell) -> bool:
        """Train what is missing of a cell. False: another process is at it."""
        with locked(self.folder / "locks" / cell.name, wait=False) as mine:
            if mine:
                chosen = self._chosen(cell.swept)
                comparison, case = self._case(cell)
                comparison.finish(case, chosen)
        return mine

    def _chosen(self, cell: Cell) -> dict[str, Chosen]:
        found = [entry(cell, arm, self.folder, self.costs, self.known) for arm in ARMS]
        if all(each["run"] for each in found):
            return {each["arm"]: Chosen(each["lr"], False, 0.0, len(RATES)) for each in found}
        comparison, case = self._case(cell)
        # Processes at two cells that share a sweep begin at its two ends.
        order = case.arms[:: 1 if cell.budget == "short" else -1]
        return {arm.name: comparison.choose(case, arm) for arm in order}

    def _case(self, cell: Cell) -> tuple[Comparison, Case]:
        setting, rules = self._setting(cell), rules_of(cell.target)
        costs = self.costs_of(cell.target)
        clock = Clock(costs.uniform_s, 0.0, costs.selection_s, costs.il_s)
        arms = costs.arms(setting.config, cell.steps)
        out = self.folder / cell.ground
        comparison = Comparison([setting], rules, out, lambda runs: self._train(out, runs))
        return comparison, Case(setting, cell.budget, 0.0, clock, arms, {})

    @cache  # noqa: B019 (one for each process)
    def _setting(self, cell: Cell) -> Setting:
        points, out = self.grounds.make(cell), self.folder / cell.ground
        sets = [f"data.path={points.path}", f"il.table={points.table}"]
        setting = Setting(cell.target.file, sets, rules_of(cell.target), out)
        if cell.target.data == "prose":
            setting.source = Prose(points, out / "data")  # type: ignore[assignment]
        return setting

    def _train(self, out: Path, runs: Mapping[str, Config]) -> None:
        for name, config in runs.items():
            if time.monotonic() > self.deadline:
                raise TimeIsUpError
            with locked(self.folder / "locks" / f"{out.name}-{name}"):
                train(out / "runs", name, config)

    def costs_of(self, target: Target) -> Costs:
        """Device-seconds of a target's steps, measured where they are not known."""
        locks = self.folder / "locks"
        with locked(locks / f"costs-{target.name}"):
            found = Costs.stored(self.costs, target)
            if found is None:
                found = self._measured(target)
                with locked(locks / "costs"), replacing(self.costs) as beside:
                    known = json.loads(self.costs.read_text()) if self.costs.exists() else {}
                    known[target.name] = asdict(found)
                    beside.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
        return found

    def _measured(self, target: Target) -> Costs:
        noise = 0.1 if 0.1 in target.noises else target.noises[0]
        setting = self._setting(Cell(target, noise, 1, "short"))
        plain = uniform_keys(setting.config.selection.n_b)
        step_s = {}
        for arm, keys in ((UNIFORM, plain), (RHO, {})):
            seconds = []
            for steps in (FEW_STEPS, FEW_STEPS, FEW_STEPS + target.timed_steps):  # one to warm up
                points = setting.source.make("train", 0.0, tuned=False)
                config = setting.run(keys, points, 0, steps, setting.config.trainer.lr)
                with tempfile.TemporaryDirectory() as scratch:
                    began = time.process_time()
                    train(Path(scratch), "timed", config)
                    seconds.append(time.process_time() - began)
            step_s[arm] = (seconds[2] - seconds[1]) / target.timed_steps
        points = self.grounds.make(Cell(target, noise, 1, "short"))
        assert points.table is not None
        il_s = losses_of(points.path, points.table).metadata.seconds
        return Costs(step_s[UNIFORM], step_s[RHO], il_s, origin()["machine"])


def rules_of(target: Target) -> Rules:
    """Those of a comparison of one cell."""
    return Rules((), False, target.seeds, RATES, VALIDATION, (0.0,), 1)


def train(folder: Path, name: str, config: Config) -> None:
    """Train a run to its end, unless it is there. Of a finished one the weights are not kept."""

    def run(inputs: RunInputs, into: RunFolder, workers: int, title: str) -> None:
        execute(inputs, into, workers, CONSOLE, title)

    runner.train_all({name: config}, folder, run, 0, CONSOLE)
    shutil.rmtree(folder / name / "checkpoints", ignore_errors=True)
    (folder / name / "model.safetensors").unlink(missing_ok=True)
