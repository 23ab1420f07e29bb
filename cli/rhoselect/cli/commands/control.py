"""``rhoctl status``, ``watch``, ``pause``, ``resume``, ``scale``, ``checkpoint`` and ``stop``: a
running run, seen and steered from outside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from rhoselect.cli import dashboard
from rhoselect.cli.commands import MOST_WORKERS
from rhoselect.protos import control_pb2 as pb
from rhoselect.service.connect import Target, control_of, looks

Found = Annotated[
    str, typer.Argument(metavar="RUN", help="Folder of a running run, or host:port of its service.")
]
Token = Annotated[
    Path | None,
    typer.Option("--token-file", help="File with the service's token [default: as the run says]."),
]
Ca = Annotated[
    Path | None, typer.Option("--tls-ca", help="PEM file of who signs the service's certificate.")
]
Cert = Annotated[Path | None, typer.Option("--tls-cert", help="PEM file of your certificate.")]
Key = Annotated[Path | None, typer.Option("--tls-key", help="PEM file of its key.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def status(
    run: Found,
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Look at a running run once.

    Examples:

      rhoctl status runs/demo

      rhoctl status 127.0.0.1:50051 --token-file token --json
    """
    with control_of(Target(run, token, ca, cert, key)) as stub:
        found = stub.Status(pb.StatusRequest()).status
    say(as_json, dashboard.line(found), dashboard.as_json(found))


def watch(
    run: Found,
    interval_s: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Look at a running run until it ends: a dashboard; elsewhere than on a terminal, lines.

    Example:

      rhoctl watch runs/demo
    """
    console = Console()
    with suppress(KeyboardInterrupt), control_of(Target(run, token, ca, cert, key)) as stub:
        found = looks(stub, interval_s)
        if console.is_terminal and not as_json:
            _dashboard(console, found)
            return
        for each in found:
            say(as_json, dashboard.line(each), dashboard.as_json(each))


def pause(
    run: Found,
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Have the trainer wait after its present step.

    Example:

      rhoctl pause runs/demo
    """
    with control_of(Target(run, token, ca, cert, key)) as stub:
        step = stub.Pause(pb.PauseRequest()).step
    say(as_json, f"paused at step {step}; go on with: rhoctl resume {run}", {"step": step})


def resume(
    run: Found,
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Let a paused trainer go on. (A stopped run: rhoctl train --resume.)

    Example:

      rhoctl resume runs/demo
    """
    with control_of(Target(run, token, ca, cert, key)) as stub:
        stub.Resume(pb.ResumeRequest())
    say(as_json, "resumed", {})


def scale(
    run: Found,
    workers: Annotated[int, typer.Option(min=0, max=MOST_WORKERS, help="Scorers wanted.")],
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Change the number of scorers of a run that was started with some. The result stays the same.

    Example:

      rhoctl scale runs/demo --workers 8
    """
    with control_of(Target(run, token, ca, cert, key)) as stub:
        stub.Scale(pb.ScaleRequest(workers=workers))
    say(as_json, f"{workers} workers", {"workers": workers})


def checkpoint(
    run: Found,
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Have a checkpoint made after the present step.

    Example:

      rhoctl checkpoint runs/demo
    """
    with control_of(Target(run, token, ca, cert, key)) as stub:
        made = stub.Checkpoint(pb.CheckpointRequest())
    found = {"step": made.step, "path": made.path}
    say(as_json, f"checkpoint after step {made.step}: {made.path}", found)


def stop(
    run: Found,
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """End a run after its present step, with a checkpoint to resume from.

    Example:

      rhoctl stop runs/demo && rhoctl train --resume --run-dir runs/demo --workers 4
    """
    with control_of(Target(run, token, ca, cert, key)) as stub:
        made = stub.Stop(pb.StopRequest())
    found = {"step": made.step, "path": made.path}
    say(as_json, f"stopped at step {made.step}, with {made.path}", found)


def say(as_json: bool, text: str, found: dict[str, Any]) -> None:
    """Print a line, or what it tells as JSON in one line."""
    print(json.dumps(found) if as_json else text, flush=True)


def _dashboard(console: Console, found: Iterator[pb.RunStatus]) -> None:
    before: pb.RunStatus | None = None
    with Live(console=console, auto_refresh=False) as live:
        for each in found:
            live.update(dashboard.picture(each, before), refresh=True)
            before = each
    console.print("the run has ended")
