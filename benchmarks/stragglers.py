"""What slow and frozen scorers cost, and weights that take longer than a step.

Seconds until RHO-LOSS has the best accuracy of the same seed's uniform run, at lag 0 and at lag 1
(two stages): 16 scorers on emulated devices (straggling.py), where a step of training takes 100 ms
and a window's forwards, dealt out evenly, take 5 ms.

stragglers    four scorers are 5 times slower, a fifth is stopped for 2 of every 6 seconds
slow weights  snapshots are with the scorers 150 ms after their publication began

Every mode has three trials in either scenario, on a seed of its own, each ended when it takes
longer than one before it; the keys that reach the target first are run with all seeds. Targets come
from uniform runs without emulation. Accuracies are means of three neighbouring evaluations, which
are left out of the seconds. The same command goes on where an interrupted one ended.

    python benchmarks/stragglers.py --json docs/results/stragglers.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import arguments
from cases import IL, N_B, RATIO
from curves import Curve, import_data, rhoctl
from harness import show, train, write, write_config
from rhoselect.trainer.control import TrainerControl
from rhoselect.trainer.records import read_evaluations, read_steps
from straggling import Row, Scenario, run

Keys = dict[str, Any]
MODEL: Keys = {"width": 128, "depth": 2}
DEVICE: Keys = {"point_ms": 100 / 3 / N_B, "precision_factor": 0.26}
TRIAL_SEED, LIMIT_S, EVAL_EVERY = 3, 60.0, 10
BASE: Keys = {
    "selection.n_b": N_B,
    "selection.n_B": RATIO * N_B,
    "selection.chunk": 20,
    "scorer.precision": "fp32",
    "trainer.eval_every": EVAL_EVERY,
    "trainer.checkpoint_every": 1_000_000,
    "queue.lease_s": 0.5,  # what a stopped scorer holds is handed out again soon
    "queue.timeout_s": 60.0,
    "metrics.port": -1,
}
SCENARIOS = {
    "stragglers": Scenario(slow=4, times=5.0, awake_s=4.0, frozen_s=2.0),
    "slow weights": Scenario(delay_s=0.15),
}
LAG_1: Keys = {"selection.lag": 1, "selection.chunk": 10, "scorer.prefetch": 8}
# With small chunks the trainer has a lane of its own, and then takes what a stopped scorer held;
# scorers need room for that beside the tickets that they hold of later windows (scorer.prefetch).
TRIALS: dict[str, list[Keys]] = {
    "lag 0": [
        {"selection.chunk": 20, "scorer.prefetch": 2},
        {"selection.chunk": 10, "scorer.prefetch": 2},
        {"selection.chunk": 10, "scorer.prefetch": 8},
    ],
    "lag 1": [
        {"selection.lag": 1, "selection.shortlist": 5, "selection.rescore": "trainer"},
        {**LAG_1, "selection.shortlist": 3, "selection.rescore": "trainer"},
        {**LAG_1, "selection.shortlist": 5, "selection.rescore": "scorers"},
    ],
}
MEDIANS = ("seconds", "steps_to_target", "step_ms", "longest_ms", "wait_ms", "staleness", "final")
COLUMNS = ("scenario", "mode", "reached", *MEDIANS, "keys")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("data/stragglers"))
    parser.add_argument("--steps", type=int, default=400, help="of a run, at most")
    parser.add_argument("--uniform-steps", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=3, help="of a mode in a scenario, at most")
    parser.add_argument("--scorers", type=int, default=16)
    # 50 steps take 5 s, in which a scorer is stopped once.
    small = {"seeds": [TRIAL_SEED], "steps": 50, "uniform_steps": 30, "trials": 1, "scorers": 6}
    options = arguments.parse(parser, **small, folder=Path("data/stragglers-quick"))
    with tempfile.TemporaryDirectory() as scratch:
        bench = Benchmark(Path(scratch), options)
        keys = {place: bench.best_keys(*place) for place in itertools.product(SCENARIOS, TRIALS)}
        # Seeds in the outer loop: the modes of a seed are neighbours in time.
        for seed, (scenario, mode) in itertools.product(options.seeds, keys):
            bench.row(scenario, mode, seed, keys[scenario, mode])
        rows = [summary(bench.rows, *place, options.seeds, each) for place, each in keys.items()]
        bench.write(rows)
    show("seconds to uniform's best accuracy", rows, COLUMNS)


class Benchmark:
    """All runs, each made once and written to --json when it is done; ``rows`` has them."""

    def __init__(self, scratch: Path, options: argparse.Namespace) -> None:
        self._scratch, self._options, self._path = scratch, options, options.json
        self._scenarios = {n: replace(s, scorers=options.scorers) for n, s in SCENARIOS.items()}
        scenarios = {name: asdict(each) for name, each in self._scenarios.items()}
        steps = {"steps": options.steps, "uniform_steps": options.uniform_steps}
        self._about = {"model": {**MODEL, **DEVICE}, "keys": BASE, **steps, "scenarios": scenarios}
        self._targets, self.rows = self._read()
        self._settings = {**BASE, **make_data(options.folder, options.quick)}

    def best_keys(self, scenario: str, mode: str) -> Keys:
        """Of the keys to try, those with which the trial seed is at its target first."""
        limit_s, trials = LIMIT_S, []
        for keys in TRIALS[mode][: self._options.trials]:
            trials.append(self.row(scenario, mode, TRIAL_SEED, keys, limit_s))
            limit_s = min(limit_s, trials[-1]["wall_s"])
        best: Keys = min(trials, key=_rank)["keys"]
        return best

    def row(self, scenario: str, mode: str, seed: int, keys: Keys, limit_s: float = LIMIT_S) -> Row:
        """The run of a seed with ``keys``; its row, if it was made before."""
        what = {"scenario": scenario, "mode": mode, "seed": seed, "keys": keys}
        for row in self.rows:
            if what.items() <= row.items():
                return row
        target, name = self._target(seed), f"run-{len(self.rows)}"
        emulated = {"model.factory": "straggling:mlp", "model.args": {**MODEL, **DEVICE}}
        own = {"seed": seed, "trainer.steps": self._options.steps, **keys}
        config, folder = self._scratch / f"{name}.toml", self._scratch / name
        write_config(config, {**self._settings, **emulated, **own})
        started, control = time.monotonic(), Finish(folder, target, limit_s)
        look = partial(figures, target=target)
        found = run(config, folder, self._scenarios[scenario], control, look)
        row = {**what, "target": target, "limit_s": limit_s, **found}
        self.rows.append(row)
        self.write()
        print(*what.values(), row["seconds"], f"({time.monotonic() - started:.0f} s)", flush=True)
        return row

    def _target(self, seed: int) -> float:
        """The best accuracy of uniform selection, on the device that there is."""
        if str(seed) not in self._targets:
            folder = self._scratch / f"uniform-{seed}"
            uniform = {"selection.function": "uniform", "selection.chunk": 160}
            steps = {"trainer.steps": self._options.uniform_steps}
            own = {"seed": seed, "model.args": MODEL, **steps}
            train(folder, {**self._settings, **uniform, **own}, workers=0)
            self._targets[str(seed)] = max(smoothed(folder))
            self.write()
        return self._targets[str(seed)]

    def _read(self) -> tuple[dict[str, float], list[Row]]:
        """What an earlier call left. Raises SystemExit if it had other settings."""
        if self._path is None or not self._path.exists():
            return {}, []
        before = json.loads(self._path.read_text())
        if before["about"] != self._about:
            raise SystemExit(f"{self._path}: made with other settings; name another file")
        return before["targets"], before["runs"]

    def write(self, summaries: Sequence[Row] = ()) -> None:
        """All that is known so far."""
        done = {"emulated": True, "about": self._about, "targets": self._targets, "runs": self.rows}
        write(self._path, {**done, "rows": summaries})


class Finish(TrainerControl):
    """Stops a trainer, with a checkpoint, at the target accuracy or after ``limit_s``."""

    def __init__(self, folder: Path, target: float, limit_s: float) -> None:
        super().__init__()
        self._folder, self._target = folder, target
        self._limit_s, self._ends = limit_s, math.inf

    def poll(self, step: int, save: Any, check_fence: Any) -> bool:
        now = time.monotonic()
        if step == 0:
            self._ends = now + self._limit_s
        known = [] if step % EVAL_EVERY else smoothed(self._folder)[:-1]
        if stops := now > self._ends or max(known, default=0.0) >= self._target:
            save()
        return stops


def make_data(folder: Path, quick: bool) -> Keys:
    """Fashion-MNIST with a tenth of the labels wrong and its irreducible losses, unless there."""
    data, table = folder / "data", folder / "il.parquet"
    if not table.exists():
        folder.mkdir(parents=True, exist_ok=True)
        import_data(data, 0.1, quick)
        small = ("--model", "rhoselect.models:mlp", "--set", "model.args.width=128")
        rhoctl("il", "fit", "--data", data, "--out", table, *small, *IL)
    return {"data.path": str(data), "il.table": str(table)}


def curve_of(evaluations: list[Row], seconds: list[float], step_ms: float) -> Curve:
    """The learning curve, from the seconds of training until each step."""
    grid = [e["step"] for e in evaluations]
    at = [seconds[step] for step in grid] if seconds else []
    return Curve(grid, [e["accuracy"] for e in evaluations], at, step_ms, {}, "")


def smoothed(folder: Path) -> list[float]:
    """A run's accuracies so far; the last lacks its right neighbour."""
    return curve_of(read_evaluations(folder), [], 0.0).smoothed


def figures(folder: Path, target: float) -> Row:
    """Of a run that has ended."""
    taken = read_steps(folder, ["step_ms", "wait_ms", "staleness"]).to_pydict()
    seconds = [0.0, *itertools.accumulate(ms / 1e3 for ms in taken["step_ms"])]
    step_ms = statistics.median(taken["step_ms"])
    curve = curve_of(read_evaluations(folder), seconds, step_ms)
    place = curve.reach(target)
    return {
        "seconds": None if place is None else curve.seconds[place],
        "steps_to_target": None if place is None else curve.steps[place],
        "steps": len(taken["step_ms"]),
        "final": curve.smoothed[-1] if curve.steps else 0.0,
        "step_ms": step_ms,
        "longest_ms": max(taken["step_ms"]),
        "wait_ms": statistics.median(taken["wait_ms"]),
        "staleness": statistics.fmean(taken["staleness"]),
        "oldest": max(taken["staleness"]),
        "accuracies": curve.accuracies,
    }


def summary(rows: list[Row], scenario: str, mode: str, seeds: list[int], keys: Keys) -> Row:
    """Medians over the seeds; a seed that does not get there counts as later than any."""
    place = {"scenario": scenario, "mode": mode, "keys": keys}
    mine = [r for r in rows if place.items() <= r.items() and r["seed"] in seeds]
    medians = {}
    for name in MEDIANS:
        median = statistics.median(math.inf if r[name] is None else r[name] for r in mine)
        medians[name] = None if median == math.inf else median
    seconds = [r["seconds"] for r in mine]
    reached = f"{len(mine) - seconds.count(None)} of {len(mine)}"
    return {**place, "reached": reached, "by_seed": seconds, **medians}


def _rank(row: Row) -> tuple[float, float]:
    """Smallest first: the soonest at the target, else the closest to it."""
    return (math.inf if row["seconds"] is None else row["seconds"], -row["final"])


if __name__ == "__main__":
    main()
