"""Stage 8: memory early and late in a run, a checkpoint's time, and what `rhoctl plan` predicts."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from stage import Stage, run

from rhoselect.config import load, resolve
from rhoselect.inputs import open_inputs
from rhoselect.runtime.local import run_serial
from rhoselect.runtime.run import Run
from rhoselect.trainer.runfolder import RunFolder

from runs import rhoctl, settings_of  # isort: skip
from harness import write_config  # isort: skip

EARLY, LATE = 50, 1000
PLAN_S = 14.0  # without it nothing is worth starting


def main(stage: Stage) -> None:
    stage.part("memory", memory)
    stage.part("rhoctl plan", plan, needs_s=0 if stage.quick else PLAN_S)


def memory(stage: Stage) -> None:
    late = 120 if stage.quick else LATE
    config = stage.work / "leftovers.toml"
    write_config(config, settings_of(stage, "mlp", late, trainer__checkpoint_every=late // 4))
    inputs = open_inputs(resolve(load(config)))
    folder = RunFolder.create(stage.work / "leftovers", inputs.config, inputs.sha256)
    early: dict[str, float] = {}

    @contextmanager
    def watch(run: Run) -> Iterator[None]:
        ended = threading.Event()

        def look() -> None:
            while run.latest.step < EARLY and not ended.wait(0.002):
                pass
            early.update(used(stage))

        thread = threading.Thread(target=look)
        thread.start()
        yield
        ended.set()
        thread.join()

    summary = run_serial(inputs, folder, watch)
    for name, value in used(stage).items():
        stage.figure(f"{name} at step {EARLY}", early[name], "MB")
        stage.figure(f"{name} at step {late}", value, "MB", "flat")
    stage.figure("a checkpoint", 1e3 * summary["busy_seconds"]["checkpoint"] / 4, "ms")


def used(stage: Stage) -> dict[str, float]:
    """Megabytes of this process, and of the device's memory."""
    status = Path("/proc/self/status").read_text()
    resident = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    found = {"resident": int(resident) / 1e3}
    if stage.cuda:
        found["allocated"] = torch.cuda.memory_allocated(stage.device) / 1e6
        found["reserved"] = torch.cuda.memory_reserved(stage.device) / 1e6
    return found


def plan(stage: Stage) -> None:
    """What it takes a step of stage 6 to be."""
    model = "mlp" if stage.quick else "resnet18"
    config = stage.work / "plan.toml"
    write_config(config, settings_of(stage, model, 60))
    process = rhoctl(stage, "plan", "plan", config, "--json")
    try:
        code = process.wait(max(1.0, stage.left_s - 1))
    except subprocess.TimeoutExpired:
        process.kill()
        stage.figure("rhoctl plan", f"not ready after {stage.left_s:.0f} s")
        return
    if code:
        raise RuntimeError(f"exit code {code}: see plan.log")
    text = (stage.work / "plan.log").read_text()
    told = json.loads(text[text.index("{") :])
    for row in told["rows"][:4]:
        name = f"{model}, W = {row['workers']}: step"
        stage.figure(f"planned {name}", row["step_ms"], "ms", "stage 6's")
    stage.figure("verdict", told["verdict"])


if __name__ == "__main__":
    run(main)
