"""``rhoctl queue``: what a running run's selection queue holds."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rhoselect.cli.commands.running import Running, on_running_run
from rhoselect.protos import control_pb2 as pb
from rhoselect.service.connect import control_of

app = typer.Typer(help="What a running run's selection queue holds.", no_args_is_help=True)


@app.callback()
def queue() -> None:
    """What a running run's selection queue holds."""


@app.command("peek")
@on_running_run
def peek(
    run: Running,
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="Points to show.")] = 10,
) -> None:
    """Show the best points scored so far of the window that the trainer takes next.

    Example:

      rhoctl queue peek runs/demo -k 20
    """
    with control_of(run.target) as stub:
        found = stub.PeekQueue(pb.PeekQueueRequest(k=k))
    if run.as_json:
        run.answer("", _as_json(found))
        return
    window = f"window {found.window}" if found.HasField("window") else "no window"
    scored = f"scored with version {found.version}" if found.points else "nothing scored yet"
    table = Table("position", "index", "epoch", "score", title=f"{window}, {scored}")
    for point in found.points:
        table.add_row(str(point.position), str(point.index), str(point.epoch), f"{point.score:.6g}")
    Console().print(table)


def _as_json(found: pb.PeekQueueResponse) -> dict[str, Any]:
    return {
        "window": found.window if found.HasField("window") else None,
        "version": found.version if found.HasField("version") else None,
        "points": [
            {"position": p.position, "index": p.index, "epoch": p.epoch, "score": p.score}
            for p in found.points
        ],
    }
