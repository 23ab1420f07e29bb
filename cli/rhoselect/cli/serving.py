"""Serves a run for a loop of the user's own: ``rhoctl serve``."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from rhoselect import config as configuration
from rhoselect.cli.display import Show, display
from rhoselect.cli.run import check_servers
from rhoselect.cli.signals import handled
from rhoselect.compute import keep_memory, make_current, repeatable
from rhoselect.config import Config, resolve
from rhoselect.devices import service_device
from rhoselect.inputs import RunInputs, check_scoring, open_inputs
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
from rhoselect.trainer.resuming import go_on_with
from rhoselect.trainer.runfolder import RunFolder, check_absent, check_inputs, check_resume
from rhoselect.trainer.tracking import check_tracker

POLL_S = 0.5


@dataclass(frozen=True)
class Served:
    """A running service: its address, and what its main thread has to call every ``POLL_S``."""

    address: str
    polls: Sequence[Callable[[], None]]


def serve_run(path: Path, config: Path | None, workers: int, sets: list[str], resume: bool) -> None:
    """Serve a new run, or with ``resume`` an old one, in the folder ``path`` until interrupted.
    Raises UserError."""
    settings = _settings(path, config, sets, resume)
    device, console = service_device(settings, workers), Console(highlight=False, markup=False)
    if device is None:  # no lane of the queue is this process's
        trainer = settings.trainer.model_copy(update={"scores": False})
        settings = settings.model_copy(update={"trainer": trainer})
    security = Security.of_server(settings.service)
    check_address(settings.service.address, security)
    check_tracker(settings.trainer.tracker)
    inputs = open_inputs(settings)
    check_servable(inputs)
    if device is None:
        console.print(f"no {settings.scorer.device} in this process: only the scorers score")
    else:
        make_current(device)
        check_scoring(inputs, device)
    check_servers(settings, workers)
    check_endpoint(settings.metrics)
    if resume:
        check_inputs(path, inputs.sha256)
    else:
        RunFolder.create(path, settings, inputs.sha256, kind="served")
    with (
        driving(path),
        announced(settings.metrics, path),
        display(console, path.name, settings.trainer.steps, "waiting for your loop") as show,
        serving(inputs, path, workers, security, show) as served,
    ):
        go_on_with(path, settings)
        console.print(
            f"serving at {served.address}, run folder {path}; stop with Ctrl-C", soft_wrap=True
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
        device = service_device(config, workers)
        if device is not None:  # this process scores, too
            stack.enter_context(repeatable(device, config.compute.tf32))
        run = ServedRun(path, workers, scores=device is not None)
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
