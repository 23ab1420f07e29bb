"""``rhoctl serve``."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rhoselect import config as configuration
from rhoselect.cli.commands import MOST_WORKERS, Sets
from rhoselect.cli.display import Show, display
from rhoselect.cli.run import check_servers
from rhoselect.cli.signals import handled
from rhoselect.compute import keep_memory
from rhoselect.config import Config, resolve
from rhoselect.errors import ConfigError
from rhoselect.inputs import RunInputs, open_inputs
from rhoselect.metrics import announced, check_endpoint
from rhoselect.runtime.queue_address import queue_url
from rhoselect.runtime.queue_server import EmbeddedServer
from rhoselect.selector.build import check_servable, servable
from rhoselect.service.control import Control
from rhoselect.service.security import Security, check_address
from rhoselect.service.selection import Selection
from rhoselect.service.served import ServedRun
from rhoselect.service.server import Host
from rhoselect.service.sessions import MakeBackends, in_process, sessions
from rhoselect.trainer.driver import driving
from rhoselect.trainer.runfolder import (
    RunFolder,
    check_absent,
    check_inputs,
    check_resume,
    default_run_dir,
)

POLL_S = 0.5


@dataclass(frozen=True)
class Served:
    """A running service: its address, and what its main thread has to call every ``POLL_S``."""

    address: str
    polls: Sequence[Callable[[], None]]


def serve(
    config: Annotated[Path | None, typer.Argument(help="TOML file of the run.")] = None,
    workers: Annotated[
        int, typer.Option(min=0, max=MOST_WORKERS, help="Scorer actors; 0: this process.")
    ] = 0,
    sets: Sets = None,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the run to make.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Serve --run-dir again.")] = False,
) -> None:
    """Select for your own training loop, which uses rhoselect.client, until interrupted.

    The same points as 'rhoctl train' selects, for any --workers. See docs/service.md.

    Examples:

      rhoctl serve my.toml --workers 4 --set service.address=127.0.0.1:50051

      rhoctl serve --resume --run-dir runs/served

      rhoctl serve my.toml --set service.address=0.0.0.0:50051 --set service.token_file=token
        --set service.tls_cert=cert.pem --set service.tls_key=key.pem
    """
    if resume and run_dir is None:
        raise ConfigError("--resume: needs --run-dir DIR, the folder to serve again")
    path = run_dir or default_run_dir("serve")
    settings = _settings(path, config, sets or [], resume)
    security = Security.of_server(settings.service)
    check_address(settings.service.address, security)
    inputs = open_inputs(settings)
    check_servable(inputs)
    check_servers(settings, workers)
    check_endpoint(settings.metrics)
    if resume:
        check_inputs(path, inputs.sha256)
    else:
        RunFolder.create(path, settings, inputs.sha256, kind="served")
    console = Console()
    with (
        driving(path),
        announced(settings.metrics, path),
        display(console, path.name, settings.trainer.steps) as show,
        serving(inputs, path, workers, security, show) as served,
    ):
        console.print(
            f"serving at {served.address}, run folder {path}; stop with Ctrl-C",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        _until_interrupted(served.polls)


def _settings(path: Path, config: Path | None, sets: list[str], resume: bool) -> Config:
    """The configuration to serve with. Raises UserError."""
    if resume:
        return servable(check_resume(path, config, sets, kind="served"))
    check_absent(path)
    return servable(resolve(configuration.load(config, sets)))


@contextmanager
def serving(
    inputs: RunInputs, path: Path, workers: int, security: Security, show: Show
) -> Iterator[Served]:
    """The service of a run folder. Enter it in the main thread."""
    config = inputs.config
    keep_memory()
    with ExitStack() as stack:
        run = ServedRun(path, workers)
        backends: MakeBackends = partial(in_process, config)
        polls = [run.poll]
        if workers:
            from rhoselect.runtime.ray.cluster import ray_session
            from rhoselect.service.ray_backend import on_ray

            url = queue_url(config.queue)
            if url is None:
                log = path / "logs" / "queue-server.log"
                server = stack.enter_context(EmbeddedServer(log))
                url = server.url
                polls.append(server.revive)
            stack.enter_context(ray_session(config.cluster.address, workers))
            backends = partial(on_ray, config, url=url)
        selection, control = Selection(sessions(inputs, run, backends)), Control(run, inputs)
        services = [selection.service, control.service]
        host = stack.enter_context(Host(services, config.service.address, security))
        stack.callback(
            lambda: asyncio.run_coroutine_threadsafe(selection.end(), host.loop).result()
        )
        stack.enter_context(control.found(host, config.service.token_file))
        show(run)
        yield Served(host.address, polls)


def _until_interrupted(polls: Sequence[Callable[[], None]]) -> None:
    """Call ``polls`` every ``POLL_S`` until a signal, of which later ones have no effect."""
    stop = threading.Event()
    with handled(lambda *_: stop.set()):
        while not stop.wait(POLL_S):
            for poll in polls:
                poll()
