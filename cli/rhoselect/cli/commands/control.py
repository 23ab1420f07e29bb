"""Watch and control a running run from another process: ``rhoctl status``, ``watch``, ``pause``,
``resume``, ``scale``, ``checkpoint`` and ``stop``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from rhoselect.cli import dashboard
from rhoselect.cli.commands import MOST_WORKERS
from rhoselect.cli.commands.running import Running, on_running_run
from rhoselect.protos import control_pb2 as pb
from rhoselect.service.connect import control_of, statuses


@on_running_run
def status(run: Running) -> None:
    """Show the status of a running run once.

    Examples:

      rhoctl status runs/demo

      rhoctl status 127.0.0.1:50051 --token-file token --json
    """
    with control_of(run.target) as stub:
        found = stub.Status(pb.StatusRequest()).status
    text = "\n".join([dashboard.line(found), *dashboard.notes(found)])
    run.answer(text, dashboard.as_json(found))


@on_running_run
def watch(
    run: Running,
    interval_s: Annotated[float, typer.Option(min=0.1, help="Seconds between two updates.")] = 1.0,
) -> None:
    """Show the status of a running run until it ends: on a terminal as a dashboard, otherwise as
    lines.

    Example:

      rhoctl watch runs/demo
    """
    console = Console()
    with suppress(KeyboardInterrupt), control_of(run.target) as stub:
        found = statuses(stub, interval_s)
        if console.is_terminal and not run.as_json:
            _dashboard(console, found)
            return
        for each in found:
            run.answer(dashboard.line(each), dashboard.as_json(each))


@on_running_run
def pause(run: Running) -> None:
    """Pause the trainer after the current step.

    Example:

      rhoctl pause runs/demo
    """
    with control_of(run.target) as stub:
        step = stub.Pause(pb.PauseRequest()).step
    go_on = f"rhoctl resume {run.target.run}"
    run.answer(f"paused at step {step}; go on with: {go_on}", {"step": step})


@on_running_run
def resume(run: Running) -> None:
    """Let a paused trainer go on. (For a stopped run: rhoctl train --resume.)

    Example:

      rhoctl resume runs/demo
    """
    with control_of(run.target) as stub:
        stub.Resume(pb.ResumeRequest())
    run.answer("resumed", {})


@on_running_run
def scale(
    run: Running,
    workers: Annotated[int, typer.Option(min=0, max=MOST_WORKERS, help="Scorers wanted.")],
) -> None:
    """Change the number of scorers of a run that was started with one or more. The result stays
    the same.

    Example:

      rhoctl scale runs/demo --workers 8
    """
    with control_of(run.target) as stub:
        stub.Scale(pb.ScaleRequest(workers=workers))
    run.answer(f"{workers} workers", {"workers": workers})


@on_running_run
def checkpoint(run: Running) -> None:
    """Make a checkpoint after the current step.

    Example:

      rhoctl checkpoint runs/demo
    """
    with control_of(run.target) as stub:
        made = stub.Checkpoint(pb.CheckpointRequest())
    found = {"step": made.step, "path": made.path}
    run.answer(f"checkpoint after step {made.step}: {made.path}", found)


@on_running_run
def stop(run: Running) -> None:
    """End a run after the current step, with a checkpoint to resume from.

    Example:

      rhoctl stop runs/demo && rhoctl train --resume --run-dir runs/demo --workers 4
    """
    with control_of(run.target) as stub:
        made = stub.Stop(pb.StopRequest())
    found = {"step": made.step, "path": made.path}
    run.answer(f"stopped at step {made.step}, with {made.path}", found)


def _dashboard(console: Console, found: Iterator[pb.RunStatus]) -> None:
    before: pb.RunStatus | None = None
    with Live(console=console, auto_refresh=False) as live:
        for each in found:
            live.update(dashboard.picture(each, before, console.height), refresh=True)
            before = each
    console.print("the run has ended")
