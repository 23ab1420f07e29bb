"""The command ``rhoctl``. Exit codes: 0 ok, 1 failure, 2 bad input (one line on stderr)."""

from __future__ import annotations

import sys
from importlib import import_module

import typer
from rich.console import Console

from rhoselect.errors import RhoError, RunStopped, shortened
from rhoselect.files import place, working_folder

COMMANDS = {
    "data": "data:app",
    "il": "il:app",
    "experiment": "experiment:app",
    "compare": "compare:compare",
    "svp": "svp:app",
    "train": "train:train",
    "serve": "serve:serve",
    "scorer": "scorer:scorer",
    "plan": "plan:plan",
    "report": "report:report",
    "export": "export:export",
    "status": "control:status",
    "watch": "control:watch",
    "pause": "control:pause",
    "resume": "control:resume",
    "scale": "control:scale",
    "checkpoint": "control:checkpoint",
    "stop": "control:stop",
    "doctor": "doctor:doctor",
    "queue": "queue:app",
}
"""The module below ``commands`` and the attribute of each command."""
MOST_PRINTED = 2000  # characters of an error, in case a message lists what others wrote


def commands(arguments: list[str]) -> typer.Typer:
    """The command that the first argument names; all commands if it names none.

    Only that command is imported: importing torch takes seconds, and most commands do not need it.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None, callback=_rhoctl)
    for name in [arguments[0]] if arguments[0] in COMMANDS else COMMANDS:
        module, attribute = COMMANDS[name].split(":")
        found = getattr(import_module(f"rhoselect.cli.commands.{module}"), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    return app


def _rhoctl() -> None:
    """Train on the points worth learning: RHO-LOSS data selection, exact and parallel."""


def main() -> None:
    """Entry point: runs a command and turns errors into one line and an exit code."""
    sys.exit(run(sys.argv[1:], find_modules_here=True))


def _expanded(argument: str) -> str:
    """An argument without a tilde before a path: shells leave it in ``--run-dir=~/x``."""
    option, _, value = argument.partition("=")
    if option.startswith("--") and value.startswith("~"):
        return f"{option}={place(value)}"
    return str(place(argument)) if argument.startswith("~") else argument


def run(arguments: list[str], find_modules_here: bool = False) -> int:
    """Run a command line and return its exit code. ``find_modules_here``: its configurations may
    name modules in the working folder."""
    arguments = arguments or ["--help"]
    stderr = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        if find_modules_here:
            sys.path.insert(0, str(working_folder()))
        arguments = [_expanded(argument) for argument in arguments]
        app = commands(arguments)
        code = app(arguments, prog_name="rhoctl", standalone_mode=False)
    except RunStopped as stopped:
        Console(soft_wrap=True, highlight=False, markup=False).print(str(stopped))
        return stopped.exit_code
    except RhoError as error:
        stderr.print(f"rhoctl: {shortened(str(error), MOST_PRINTED)}")
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        stderr.print("rhoctl: interrupted; a run goes on from its last checkpoint with --resume")
        return 130
    except typer.Exit as stop:
        return stop.exit_code
    except OSError as error:
        if error.filename is None:
            raise
        ask = "; ask its owner for the right" if isinstance(error, PermissionError) else ""
        stderr.print(f"rhoctl: {error.filename}: {error.strerror}{ask}")
        return 1
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        usage = shortened(error.format_message()).rstrip(".")
        stderr.print(f"rhoctl: {usage}; see 'rhoctl --help'")
        return 2
    return code if isinstance(code, int) else 0
