"""``rhoctl scorer``: take part in a running run from outside its cluster."""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import typer

from rhoselect.cli.commands.control import Ca, Cert, Found, Json, Key, Token, say
from rhoselect.service.connect import Target, channel_of


def scorer(
    run: Found,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Where files are here."),
    ] = None,
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Score for a running run until it ends, on a machine outside its Ray cluster.

    The run needs --workers 1 or more and a queue server that this machine reaches, too. It may be
    started and killed at any time: the run's result stays the same.

    Examples:

      rhoctl scorer runs/demo

      rhoctl scorer trainer.example:7443 --token-file token --tls-ca ca.pem --set data.path=/web
    """
    from rhoselect.service.remote_scorer import attach, score

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with channel_of(Target(run, token, ca, cert, key)) as channel:
        attached, inputs = attach(channel, run, sets or [])
        slot = attached.slot
        say(as_json, f"scorer {slot} of run {attached.session.run_id}", {"slot": slot})
        points = score(channel, attached, inputs, stop)
    say(as_json, f"{points} points scored", {"scored_points": points})
