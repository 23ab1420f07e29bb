"""Stage 6: a step at lag 0, with the trainer and 0 to 3 scorers on the one device.

Runs of `rhoctl train` give a step and its waits. What a step must take is measured in this process:
a training step, and its share of the forwards. Processes on one GPU take turns, so the sum of all
forwards counts whatever the number of scorers; what is above that is overhead. The forms are as the
configuration has it by default, with the points in the device's memory, and with graphs as well.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from stage import Stage, run, seconds

from rhoselect.compute import repeatable, threads
from rhoselect.config import load
from rhoselect.inputs import open_inputs
from rhoselect.trainer.build import new_learner

from runs import Settings, settings_of, step_parts, train, train_here  # isort: skip
from harness import write_config  # isort: skip

STEPS, WARM_UP = 60, 15
TRACED = 4
RUN_S = 26.0  # of a run with scorers


@dataclass
class Case:
    """A model in a form, and what its step must take: ``train_ms`` and ``forwards_ms``."""

    model: str
    form: str
    keys: Settings
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.model}, {self.form}" if self.form else self.model

    def settings(self, stage: Stage, count: int) -> dict[str, Any]:
        return settings_of(stage, self.model, count, **self.keys)


def main(stage: Stage) -> None:
    kept: Settings = {"data__resident": "device"}
    forms = {"": {}, "resident": kept, "resident, graph": kept | {"scorer__graph": True}}
    if not stage.cuda:
        del forms["resident, graph"]
    models = ("mlp",) if stage.quick else ("mlp", "resnet18")
    cases = [Case(model, form, keys) for model in models for form, keys in forms.items()]
    for case in cases:
        stage.part(f"{case.name}, its parts", bare, case)
        stage.part(f"{case.name}, W = 0", steps, case, 0)
    stage.part("trace", trace)
    runs = [(cases[-1], 1), (cases[-len(forms)], 1), (cases[len(forms) - 1], 1), (cases[-1], 3)]
    for case, workers in () if stage.quick else runs:  # Ray takes long to start
        stage.part(f"{case.name}, W = {workers}", steps, case, workers, needs_s=RUN_S)


def bare(stage: Stage, case: Case) -> None:
    """Milliseconds of a training step and of all forwards of a window."""
    config = stage.work / f"{file_name(case)}-parts.toml"
    write_config(config, case.settings(stage, STEPS))
    inputs = open_inputs(load(config))
    learner, replica = new_learner(inputs, stage.device), inputs.new_replica(stage.device)
    few, chunk = (inputs.train.read(inputs.train.first(n), stage.device) for n in (32, 32))
    with repeatable(stage.device), threads(1):
        repeats = 5 if stage.quick else 30
        train_s = seconds(stage.device, lambda: learner.update(few, None, 0), repeats)
        forward_s = seconds(stage.device, lambda: replica(chunk), repeats)
    forwards_ms = 1e3 * forward_s * inputs.plan.chunks
    case.parts |= {"train_ms": 1e3 * train_s, "forwards_ms": forwards_ms}
    for name, value in case.parts.items():
        stage.figure(f"{case.name}, {name.removesuffix('_ms')}", value, "ms")


def file_name(case: Case) -> str:
    return case.name.replace(", ", "-")


def steps(stage: Stage, case: Case, workers: int) -> None:
    count = 30 if stage.quick else STEPS + WARM_UP
    name, settings = f"{file_name(case)}-{workers}", case.settings(stage, count)
    if workers:
        train(stage, name, settings, workers).summary()
    else:
        train_here(stage, name, settings)
    summary = json.loads((stage.work / name / "summary.json").read_text())
    name, found = f"{case.name}, W = {workers}", step_parts(stage.work / name, WARM_UP)
    stage.figure(f"{name}: step", found["step_ms"], "ms")
    stage.figure(f"{name}: of it waiting for scores", found["wait_ms"], "ms")
    busy = {phase: 1e3 * s / count for phase, s in summary["busy_seconds"].items()}
    told = ", ".join(f"{phase} {ms:.2f}" for phase, ms in sorted(busy.items()))
    stage.figure(f"{name}: busy (launches)", told, "ms")
    if case.parts:
        over = found["step_ms"] - sum(case.parts.values())
        stage.figure(f"{name}: overhead", over, "ms", "12 to 20; a later issue: 3")


def trace(stage: Stage) -> None:
    """The kernels of a few steps in one process, in the log and as a file for chrome://tracing."""
    settings = settings_of(stage, "mlp" if stage.quick else "resnet18", TRACED)
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if stage.cuda else []
    started = time.monotonic()
    with torch.profiler.profile(activities=activities) as profiler:
        train_here(stage, "traced", settings)
    by = "self_device_time_total" if stage.cuda else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=by, row_limit=25, max_name_column_width=60))
    if not stage.quick and stage.left_s > 6:
        profiler.export_chrome_trace(str(stage.work / "steps.trace.json.gz"))
    stage.figure("trace", time.monotonic() - started, "s")


if __name__ == "__main__":
    run(main)
