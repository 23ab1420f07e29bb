"""Stage 6: a step at lag 0, with the trainer and 0 to 3 scorers on the one device.

Runs of `rhoctl train` give a step and its waits. What a step must take is measured in this process:
a training step, and its share of the forwards. Processes on one GPU take turns, so the sum of all
forwards counts whatever the number of scorers; what is above that is overhead.
"""

from __future__ import annotations

import json
import time

import torch
from stage import Stage, run, seconds

from rhoselect.compute import repeatable, threads
from rhoselect.config import load
from rhoselect.inputs import open_inputs
from rhoselect.trainer.build import new_learner

from runs import settings_of, step_parts, train, train_here  # isort: skip
from harness import write_config  # isort: skip

STEPS, WARM_UP = 60, 15
TRACED = 4
RUN_S = 30.0  # of a run with scorers


def main(stage: Stage) -> None:
    for model in ("mlp",) if stage.quick else ("mlp", "resnet18"):
        parts: dict[str, float] = {}
        stage.part(f"{model}, its parts", bare, model, parts)
        stage.part(f"{model}, W = 0", steps, model, 0, parts)
    stage.part("trace", trace)
    for workers in () if stage.quick else (1, 3):  # of ResNet-18: Ray takes long to start
        stage.part(f"{model}, W = {workers}", steps, model, workers, parts, needs_s=RUN_S)


def bare(stage: Stage, model: str, parts: dict[str, float]) -> None:
    """Milliseconds of a training step and of all forwards of a window."""
    config = stage.work / f"{model}-parts.toml"
    write_config(config, settings_of(stage, model, STEPS))
    inputs = open_inputs(load(config))
    learner, replica = new_learner(inputs, stage.device), inputs.new_replica(stage.device)
    few, chunk = (inputs.train.read(inputs.train.first(n), stage.device) for n in (32, 32))
    with repeatable(stage.device), threads(1):
        repeats = 5 if stage.quick else 30
        train_s = seconds(stage.device, lambda: learner.update(few, None, 0), repeats)
        forward_s = seconds(stage.device, lambda: replica(chunk), repeats)
    parts |= {"train_ms": 1e3 * train_s, "forwards_ms": 1e3 * forward_s * inputs.plan.chunks}
    for name, value in parts.items():
        stage.figure(f"{model}, {name.removesuffix('_ms')}", value, "ms")


def steps(stage: Stage, model: str, workers: int, parts: dict[str, float]) -> None:
    count = 30 if stage.quick else STEPS + WARM_UP
    name, settings = f"{model}-{workers}", settings_of(stage, model, count)
    if workers:
        train(stage, name, settings, workers).summary()
    else:
        train_here(stage, name, settings)
    summary = json.loads((stage.work / name / "summary.json").read_text())
    name, found = f"{model}, W = {workers}", step_parts(stage.work / name, WARM_UP)
    stage.figure(f"{name}: step", found["step_ms"], "ms")
    stage.figure(f"{name}: of it waiting for scores", found["wait_ms"], "ms")
    busy = {phase: 1e3 * s / count for phase, s in summary["busy_seconds"].items()}
    told = ", ".join(f"{phase} {ms:.2f}" for phase, ms in sorted(busy.items()))
    stage.figure(f"{name}: busy (launches)", told, "ms")
    if parts:
        over = found["step_ms"] - parts["train_ms"] - parts["forwards_ms"]
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
