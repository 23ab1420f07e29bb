"""Stage 3: `rhoctl train` selects and learns the same with any number of scorers on this device.

Also with a scorer killed as soon as it is ready, and after a resume from a checkpoint. Runs go side
by side where there are cores for it.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runs import Run, Settings, rhoctl, settings_of, train
from stage import Stage
from stage import run as run_stage

STEPS, QUICK_STEPS = 60, 20
READY = re.compile(r"scorer 0 of process (\d+) is ready")
LAG_1 = {"selection__lag": 1}


@dataclass(frozen=True)
class Case:
    """A run; those of one ``setting`` must end with the same hashes."""

    setting: str
    model: str
    workers: int
    keys: dict[str, Any] = field(default_factory=dict)
    how: str = ""

    @property
    def name(self) -> str:
        words = [self.setting, f"W = {self.workers}", *([self.how] if self.how else [])]
        return ", ".join(words)


SCORERS = {**LAG_1, "selection__rescore": "scorers"}
FORMS = {"scorer__graph": True, "scorer__quantize": "int8", "compute__tf32": "all"}
BY_PIXEL = {"scorer__graph": True, "scorer__channels_last": True, "trainer__channels_last": True}
OF_GPUS = [
    *(Case("resnet18, graph, by pixel", "resnet18", workers, BY_PIXEL) for workers in (2, 0)),
    *(Case("mlp, graph, int8, TF32", "mlp", workers, FORMS) for workers in (2, 0)),
]
CASES = [  # the longest first
    Case("resnet18", "resnet18", 1, how="resumed"),
    Case("resnet18", "resnet18", 2, how="a scorer killed"),
    Case("resnet18, lag 1", "resnet18", 2, LAG_1, "trainer re-scores"),
    Case("resnet18, lag 1", "resnet18", 2, SCORERS, "scorers re-score"),
    *(Case("resnet18", "resnet18", workers) for workers in (2, 0)),
    *(Case("mlp", "mlp", workers) for workers in (2, 1, 0)),
    Case("resnet18, lag 1", "resnet18", 0, LAG_1),
]
QUICK = [
    Case("mlp", "mlp", 0),
    Case("mlp", "mlp", 2, how="a scorer killed"),
    Case("mlp", "mlp", 0, how="resumed"),
]


def main(stage: Stage) -> None:
    cases, steps = (QUICK, QUICK_STEPS) if stage.quick else (CASES, STEPS)
    cases = cases + (OF_GPUS if stage.cuda else [])
    at_once = 2 if stage.quick else max(1, min(8, len(os.sched_getaffinity(0)) // 2))
    ways: dict[str, Callable[..., Run]] = {"a scorer killed": killed, "resumed": resumed}
    settings_of(stage, "mlp", 1)  # the data are made once, before the runs

    def done(case: Case) -> tuple[Any, ...] | str:
        try:
            settings = settings_of(stage, case.model, steps, **case.keys)
            settings["trainer.checkpoint_every"] = steps // 2
            started = time.monotonic()
            name = re.sub(r"\W+", "-", case.name)
            run = ways.get(case.how, train)(stage, name, settings, case.workers)
            summary = run.summary()
            stage.figure(f"seconds: {case.name}", time.monotonic() - started, "s")
            return summary["steps"], summary["selected_sha256"], summary["weights_sha256"]
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    with ThreadPoolExecutor(at_once) as pool:
        found = dict(zip((case.name for case in cases), pool.map(done, cases), strict=True))
    first: dict[str, Any] = {}
    equal = {}
    for case in cases:
        result = found[case.name]
        if isinstance(result, str):
            stage.figure(f"run: {case.name}", f"failed: {result}")
        like = first.setdefault(case.setting, result)
        equal[case.name] = not isinstance(result, str) and result == like
    stage.check("equal hashes", equal)


def killed(stage: Stage, name: str, settings: Settings, workers: int) -> Run:
    """A run whose first scorer is killed once it can score."""
    run = train(stage, name, settings, workers)
    log = run.folder / "logs" / "scorer-0.log"
    while run.process.poll() is None:
        if log.exists() and (ready := READY.search(log.read_text())):
            os.kill(int(ready[1]), signal.SIGKILL)
            print(f"{name}: killed {ready[1]}")
            return run
        time.sleep(0.02)
    raise RuntimeError("the run ended before its scorer was ready")


def resumed(stage: Stage, name: str, settings: Settings, workers: int) -> Run:
    """A run in one process, cut back to what a kill before its last checkpoint leaves, that goes on
    with ``workers``."""
    run = train(stage, name, settings, 0)
    run.summary()
    *_, newest = sorted(run.folder.glob("checkpoints/step-*"))
    for path in (newest, *(run.folder / left for left in LEFT)):
        path.unlink()
    words = ("train", "--resume", "--run-dir", run.folder, "--workers", workers)
    return Run(run.folder, rhoctl(stage, name, *words))


LEFT = (Path("steps.parquet"), Path("summary.json"))

if __name__ == "__main__":
    run_stage(main)
