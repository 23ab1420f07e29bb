"""What the commands on a running run share: which run, what its service asks for, how to answer."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Concatenate

import typer

from rhoselect.cli.commands import AsJson
from rhoselect.service.connect import Target


@dataclass(frozen=True)
class Running:
    """The run that a command is for. ``answer`` prints a line, or JSON with ``as_json``."""

    target: Target
    as_json: bool

    def answer(self, text: str, found: dict[str, Any]) -> None:
        """Print the line ``text``, or the same facts as one line of JSON."""
        print(json.dumps(found) if self.as_json else text, flush=True)


def on_running_run(command: Callable[Concatenate[Running, ...], None]) -> Callable[..., None]:
    """Make ``command`` one of rhoctl: its first parameter becomes RUN and the options below."""
    shared = inspect.signature(_running, eval_str=True).parameters
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @wraps(command)
    def called(**given: Any) -> None:
        running = _running(**{name: given.pop(name) for name in shared})
        command(running, **given)

    run, *options = shared.values()
    everything = [p.replace(kind=p.KEYWORD_ONLY) for p in (run, *own, *options)]
    called.__signature__ = inspect.Signature(everything)  # type: ignore[attr-defined]
    return called


def _running(
    run: Annotated[
        str,
        typer.Argument(metavar="RUN", help="Folder of a running run, or host:port of its service."),
    ],
    token: Annotated[
        Path | None,
        typer.Option(
            "--token-file", help="File with the service's token [default: as the run says]."
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option("--tls-ca", help="PEM file of the CA that signed the service's certificate."),
    ] = None,
    cert: Annotated[
        Path | None, typer.Option("--tls-cert", help="PEM file of your certificate.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--tls-key", help="PEM file of its key.")] = None,
    as_json: AsJson = False,
) -> Running:
    return Running(Target(run, token, ca, cert, key), as_json)
