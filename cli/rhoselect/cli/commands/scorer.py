"""``rhoctl scorer``: one more scorer for a running run, on a machine outside its cluster."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from rhoselect.cli.commands.running import Running, on_running_run
from rhoselect.service.connect import channel_of


@on_running_run
def scorer(
    run: Running,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Where files lie on this machine."),
    ] = None,
) -> None:
    """Score for a running run until it ends, on a machine outside its Ray cluster.

    The run needs --workers 1 or more and a queue server that this machine can reach. A scorer may
    be started and killed at any time: the run's result stays the same.

    Examples:

      rhoctl scorer runs/demo

      rhoctl scorer trainer.example:7443 --token-file token --tls-ca ca.pem --set data.path=/web
    """
    from rhoselect.cli.signals import handled
    from rhoselect.service.remote_scorer import attach, score

    stop = threading.Event()
    with handled(lambda *_: stop.set()), channel_of(run.target) as channel:
        attached, inputs = attach(channel, run.target.run, sets or [])
        slot = attached.slot
        run.answer(f"scorer {slot} of run {attached.session.run_id}", {"slot": slot})
        points = score(channel, attached, inputs, stop)
    run.answer(f"{points} points scored", {"scored_points": points})
