"""The command ``rhoctl``. Exit codes: 0 ok, 1 failure, 2 bad input (one line on stderr)."""

from __future__ import annotations

import os
import sys

import typer
from rich.console import Console

from rhoselect.errors import RhoError, RunStopped
from rhoselect.launch.commands import (
    control,
    data,
    doctor,
    experiment,
    export,
    il,
    plan,
    queue,
    report,
    scorer,
    serve,
    svp,
    train,
)

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="Train on the points worth learning: RHO-LOSS data selection, exact and parallel.",
)
app.add_typer(data.app, name="data")
app.add_typer(il.app, name="il")
app.add_typer(experiment.app, name="experiment")
app.add_typer(svp.app, name="svp")
app.command("train")(train.train)
app.command("serve")(serve.serve)
app.command("scorer")(scorer.scorer)
app.command("plan")(plan.plan)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("status")(control.status)
app.command("watch")(control.watch)
app.command("pause")(control.pause)
app.command("resume")(control.resume)
app.command("scale")(control.scale)
app.command("checkpoint")(control.checkpoint)
app.command("stop")(control.stop)
app.command("doctor")(doctor.doctor)
app.add_typer(queue.app, name="queue")


def main() -> None:
    """Entry point: runs a command and turns errors into one line and an exit code."""
    sys.path.insert(0, os.getcwd())  # import paths in configurations may name files right here
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit code."""
    stderr = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        code = app(arguments or ["--help"], prog_name="rhoctl", standalone_mode=False)
    except RunStopped as stopped:
        Console(soft_wrap=True, highlight=False, markup=False).print(str(stopped))
        return stopped.exit_code
    except RhoError as error:
        stderr.print(f"rhoctl: {' '.join(str(error).split())}")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        stderr.print("rhoctl: interrupted; a run goes on from its last checkpoint with --resume")
        return 130
    except typer.Exit as stop:
        return stop.exit_code
    except OSError as error:
        if error.filename is None:
            raise
        stderr.print(f"rhoctl: {error.filename}: {error.strerror}")
        return 1
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        usage = " ".join(error.format_message().split()).rstrip(".")
        stderr.print(f"rhoctl: {usage}; see 'rhoctl --help'")
        return 2
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    main()
