"""``rhoctl plan``."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
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
from rhoselect.errors import ConfigError
from rhoselect.planning import layouts, model

if TYPE_CHECKING:
    from rhoselect.planning.lead import Lead
    from rhoselect.planning.measure import Calibration

ROWS = {
    "workers": "workers",
    "step_ms": "ms a step here",
    "own_devices_ms": "a device each",
    "kept_fraction": "kept of uniform's speed",
    "break_even": "pays at fewer steps, times",
}
DEVICES = (1, 2, 4, 8, 16)


def plan(
    config: Annotated[Path, typer.Argument(help="TOML file of the run.")],
    devices: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many devices train and score [default: 1, 2, 4, 8 and 16].",
        ),
    ] = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Measure for a minute whether RHO-LOSS will pay, with how many workers and devices that train.

    Prints what a step will take at lag 0, how many times fewer steps RHO-LOSS must need to be
    faster than uniform selection, and what some devices should do: all train and score, or a few
    train and the others score. Warns of irreducible losses that are too weak for the model. Leaves
    nothing behind.

    Examples:

      rhoctl plan examples/fashion-mnist.toml

      rhoctl plan my.toml --devices 8 --json
    """
    settings = configuration.load(config, sets or [])
    _check_whole(settings)
    from rhoselect.inputs import open_inputs
    from rhoselect.planning.lead import lead
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
        task, stages = progress.add_task("measuring", total=STAGES), itertools.count()

        def note(stage: str) -> None:
            progress.update(task, description=stage, completed=next(stages))

        found = calibrate(inputs, note)
        note("what the irreducible losses know")
        ahead = lead(inputs)
    counts = [devices] if devices else DEVICES
    result = _result(found, ahead, counts, inputs.config.trainer.micro_batches)
    if as_json:
        console.print(json.dumps({**origin(), **asdict(found), **result}, indent=2))
    else:
        _show(console, found, result)
        if ahead is not None:
            console.print(str(ahead))
        console.print(f"W* = {result['workers_enough']}. {result['verdict']}")


def _result(
    found: Calibration, ahead: Lead | None, devices: Sequence[int], micro_batches: int
) -> dict[str, Any]:
    """What follows from the measured parts."""
    return {
        "workers_enough": model.enough_workers(found.parts),
        "verdict": model.verdict(found.parts, ahead is not None and ahead.weak),
        "lead": None if ahead is None else {**asdict(ahead), "ratio": ahead.ratio},
        "rows": model.rows(found.parts),
        "devices": [layouts.row(found.parts, count, micro_batches) for count in devices],
    }


def _check_whole(settings: configuration.Config) -> None:
    if settings.trainer.parallel == "fsdp":
        raise ConfigError(
            "trainer.parallel: got 'fsdp', allowed 'replicated' for a plan, which measures whole"
            " models on one device; plan one that fits there with --set"
            " trainer.parallel=replicated"
        )


def _show(console: Console, found: Calibration, result: dict[str, Any]) -> None:
    """The measured parts and both tables."""
    parts = found.parts
    measured = {
        "training step": parts.train_s,
        "training step of the proxy": parts.proxy_s,
        "forward of a chunk": parts.forward_s,
        "reading a chunk": parts.read_s,
        "weights, published to loaded": parts.between.publish_s,
        "gradients of 2 devices, summed": parts.exchange.message_s + parts.exchange.sum_s,
        "scoring and pushing a chunk": parts.between.push_s,
        "window opened, popped, closed": parts.between.window_s,
        "shortlist, re-scored": parts.rescore_s,
    }
    for name, seconds in measured.items():
        if seconds:  # of a proxy or a shortlist, only if there is one
            console.print(f"{name:30} {1e3 * seconds:9.3f} ms")
    shares = {
        "forward of a point / of a step": found.forward_share,
        "scoring precision / float32": found.precision_factor,
        "FLOPs, what scores / the model": found.proxy_share,
        f"forwards, {found.processes} at once / one": parts.slowdown,
    }
    for name, ratio in shares.items():
        console.print(f"{name:30} {ratio:9.3f}")
    steps = Table(*ROWS.values(), title="a step at lag 0")
    for row in result["rows"]:
        steps.add_row(*(_cell(row[name]) for name in ROWS))
    console.print(steps)
    console.print(_layouts(result["devices"]))
    most = result["devices"][-1]
    console.print(f"With {most['devices']} devices: rhoctl train … {most['options']}")


def _layouts(rows: list[dict[str, Any]]) -> Table:
    """A row a number of devices, a column for what they may do. Ranks that train also score beside
    the others where that is faster."""
    ranks = list(dict.fromkeys(k for row in rows for k in row["split_ms"]))
    split = [f"{k} train{'' if int(k) > 1 else 's'}" for k in ranks]
    last = ("best", "pays at fewer steps, times")
    table = Table(
        *("devices", "uniform", *split, "all do both", *last),
        title="ms a step at lag 0, a device a process; those that do not train score, or all do",
    )
    for row in rows:
        ways = [row["split_ms"], row["beside_ms"]]
        times = [min((way[k] for way in ways if k in way), default=None) for k in ranks]
        figures = [row["uniform_ms"], *times, [*row["colocated_ms"].values()][-1]]
        cells = ["-" if ms is None else f"{ms:.2f}" for ms in figures]
        table.add_row(str(row["devices"]), *cells, row["layout"], f"{row['break_even']:.2f}")
    return table


def _cell(value: float | int) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}"
