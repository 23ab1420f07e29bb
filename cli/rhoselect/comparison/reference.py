"""Seconds on the reference machine: measured once for each configuration, and kept by name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from rhoselect.comparison.arms import Clock, scorers_of, uniform_keys
from rhoselect.comparison.rules import Setting, Train
from rhoselect.files import replacing
from rhoselect.grids.spec import Scalar
from rhoselect.report.origin import origin
from rhoselect.trainer.records import read_steps

FILE = "reference.json"
STEPS = 120
WARM_UP_STEPS = 20
SEED = 0
"""That of the runs that measure and of those that choose; final runs have this one, too, but other
points."""


def clocks(settings: Sequence[Setting], out: Path, train: Train) -> dict[str, Clock]:
    """{configuration: its clock}, from ``reference.json`` in ``out``. What is missing there is
    measured on this machine."""
    path, found = out / FILE, dict[str, Clock]()
    if path.exists():
        stored = json.loads(path.read_text("utf-8"))["clocks"]
        found = {name: Clock(**clock) for name, clock in stored.items()}
    missing = [setting for setting in settings if setting.name not in found]
    if missing:
        found |= {setting.name: _measured(setting, out / "runs", train) for setting in missing}
        by_name = {name: asdict(clock) for name, clock in found.items()}
        with replacing(path) as beside:
            beside.write_text(json.dumps({**origin(), "clocks": by_name}, indent=1) + "\n", "utf-8")
    return found


def _measured(setting: Setting, runs: Path, train: Train) -> Clock:
    n_b, lr = setting.config.selection.n_b, setting.config.trainer.lr
    keys: dict[str, Mapping[str, Scalar]] = {
        "uniform": uniform_keys(n_b),
        "wide": uniform_keys((1 + scorers_of(setting.config)) * n_b),
        "selection": {},
    }
    points = setting.source.make("train", 0.0, tuned=True)
    measured = dict[str, float]()
    for name, own in keys.items():
        run = f"{setting.name}-reference-{name}"
        train({run: setting.run(own, points, SEED, STEPS, lr)})
        step_ms = read_steps(runs / run, ["step_ms"])["step_ms"].to_numpy()
        # The median, as other work on the machine falls on a few steps.
        measured[f"{name}_s"] = float(np.median(step_ms[WARM_UP_STEPS:])) / 1e3
    table = setting.source.table
    return Clock(**measured, il_s=table.metadata.seconds if table else 0.0)
