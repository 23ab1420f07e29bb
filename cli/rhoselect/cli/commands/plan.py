"""``rhoctl plan``."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from rhoselect import config as configuration
from rhoselect.cli.commands import AsJson, Sets
from rhoselect.config import resolve
from rhoselect.planning import model

if TYPE_CHECKING:
    from rhoselect.planning.measure import Calibration

MOST_DEVICES = 17
ROWS = {
    "workers": "workers",
    "step_ms": "ms a step here",
    "own_devices_ms": "a device each",
    "kept_fraction": "kept of uniform's speed",
    "break_even": "pays at fewer steps, times",
}
SPLIT = {
    "devices": "devices",
    "scoring": "of them score",
    "step_ms": "ms a step",
    "break_even": "pays at fewer steps than uniform on all, times",
}


def plan(
    config: Annotated[Path, typer.Argument(help="TOML file of the run.")],
    devices: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Devices, of which one trains [default: 1 to what helps, or {MOST_DEVICES}].",
        ),
    ] = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Measure for a minute whether RHO-LOSS will pay, and with how many workers.

    Prints what a step will take at lag 0, how many times fewer steps RHO-LOSS must need to be
    faster than uniform selection, and how many devices help: one trains, the others score. Trains
    nothing and leaves nothing behind.

    Examples:

      rhoctl plan examples/fashion-mnist.toml

      rhoctl plan my.toml --devices 8 --json
    """
    settings = configuration.load(config, sets or [])
    from rhoselect.inputs import open_inputs
    from rhoselect.planning.measure import STAGES, calibrate
    from rhoselect.report.origin import origin
    from rhoselect.trainer.rehearsal import rehearse

    inputs = open_inputs(resolve(settings))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not inputs.scoring.needs.forward:
        nothing = f"{inputs.config.selection.function} needs no forward: there is nothing to plan"
        console.print(json.dumps({"verdict": nothing}) if as_json else nothing)
        return
    rehearse(inputs)
    shown = Console(stderr=True)
    # Only on a terminal: in a log file an error shall stay one line.
    with Progress(console=shown, transient=True, disable=not shown.is_terminal) as progress:
        task = progress.add_task("measuring", total=STAGES)
        stages = itertools.count()
        found = calibrate(
            inputs,
            lambda stage: progress.update(task, description=stage, completed=next(stages)),
        )
    helpful = 1 + model.enough_workers(model.own_devices(found.parts))
    counts = range(1, min(helpful, MOST_DEVICES) + 1) if devices is None else [devices]
    result = {
        "workers_enough": model.enough_workers(found.parts),
        "verdict": model.verdict(found.parts),
        "rows": model.rows(found.parts),
        "split": [model.split(found.parts, count) for count in counts],
    }
    if as_json:
        console.print(json.dumps({**origin(), **asdict(found), **result}, indent=2))
    else:
        _show(console, found, result)


def _show(console: Console, found: Calibration, result: dict[str, Any]) -> None:
    """The measured parts, both tables and the verdict."""
    parts = found.parts
    measured = {
        "training step": parts.train_s,
        "forward of a chunk": parts.forward_s,
        "reading a chunk": parts.read_s,
        "weights, published to loaded": parts.between.publish_s,
        "scoring and pushing a chunk": parts.between.push_s,
        "window opened, popped, closed": parts.between.window_s,
    }
    for name, seconds in measured.items():
        console.print(f"{name:30} {1e3 * seconds:9.3f} ms")
    shares = {
        "forward of a point / of a step": found.forward_share,
        "scoring precision / float32": found.precision_factor,
        f"forwards, {found.processes} at once / one": parts.slowdown,
    }
    for name, ratio in shares.items():
        console.print(f"{name:30} {ratio:9.3f}")
    steps = Table(*ROWS.values(), title="a step at lag 0")
    for row in result["rows"]:
        steps.add_row(*(_cell(row[name]) for name in ROWS))
    console.print(steps)
    split = Table(*SPLIT.values(), title="devices, one a process: one trains")
    for row in result["split"]:
        split.add_row(*(_cell(row[name]) for name in SPLIT))
    console.print(split)
    console.print(f"W* = {result['workers_enough']}. {result['verdict']}")


def _cell(value: float | int) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}"
