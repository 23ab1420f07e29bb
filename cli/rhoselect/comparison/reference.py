"""Seconds on the reference machine: measured once for each configuration, and kept by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rhoselect.comparison.arms import Clock, scorers_of, uniform_keys
from rhoselect.comparison.rules import Setting, Train
from rhoselect.files import replacing
from rhoselect.grids.spec import Scalar
from rhoselect.report.origin import origin
from rhoselect.trainer.records import read_steps

STEPS = 120
WARM_UP_STEPS = 20
SEED = 0
"""That of the runs that measure and of those that choose; final runs have this one, too, but other
points."""


def path_of(out: Path, name: str) -> Path:
    """The file of a configuration's seconds in the comparison's folder ``out``. Each has its own,
    so that two commands may work on two configurations side by side."""
    return out / f"reference-{name}.json"


def clock(setting: Setting, out: Path, train: Train) -> Clock:
    """The seconds of a configuration's steps: stored ones, or measured on this machine."""
    path = path_of(out, setting.name)
    if not path.exists():
        measured = _measured(setting, out / "runs", train)
        with replacing(path) as beside:
            content = {**origin(), "clock": asdict(measured)}
            beside.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    return Clock(**json.loads(path.read_text("utf-8"))["clock"])


def machine(out: Path, name: str) -> dict[str, Any]:
    """The machine on which a configuration's seconds were measured."""
    found: dict[str, Any] = json.loads(path_of(out, name).read_text("utf-8"))["machine"]
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
