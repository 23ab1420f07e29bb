"""Runs a run for the commands: with a display, signal handling and its gRPC services."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from rich.console import Console

from rhoselect.cli.display import display
from rhoselect.cli.signals import stopping
from rhoselect.config import Config
from rhoselect.devices import ranks_are_actors
from rhoselect.errors import ConfigError
from rhoselect.inputs import RunInputs
from rhoselect.metrics import announced
from rhoselect.planning.layouts import Mode, chosen
from rhoselect.queue.redis import check_server
from rhoselect.runtime.crew import in_mode
from rhoselect.runtime.local import run_serial
from rhoselect.runtime.queue_address import check_cluster, queue_url
from rhoselect.runtime.queue_server import find_server
from rhoselect.runtime.run import Run
from rhoselect.service.control import controlled
from rhoselect.service.security import Security, check_address
from rhoselect.trainer.runfolder import RunFolder


def check_servers(settings: Config, workers: int) -> None:
    """Raise QueueConfigError or ConfigError unless the queue server and the cluster can be reached,
    the run's own service may listen at its address, and the trainer's devices suit the workers."""
    _check_mode(settings, workers)
    check_address(settings.service.address, Security.of_server(settings.service))
    url = queue_url(settings.queue)
    if workers and url is not None:
        check_server(url)
    elif workers:
        find_server()
    if workers or ranks_are_actors(settings):
        check_cluster(settings, workers)


def _check_mode(settings: Config, workers: int) -> None:
    devices, mode = settings.trainer.devices, settings.cluster.mode
    if devices > 1 and mode == "split" and not workers:
        raise ConfigError(
            f"cluster.mode: got 'split' with trainer.devices = {devices} and --workers 0, allowed"
            " with --workers 1 or more, which score; or set 'colocated'"
        )


def scorers_of(inputs: RunInputs, workers: int, console: Console) -> int:
    """How many scorers the run starts of the ``workers`` that it may have. It says so, and why,
    where the configuration leaves that open. Raises ConfigError."""
    config = inputs.config
    if workers > 0 and not inputs.scoring.needs.forward:
        console.print(f"{config.selection.function} needs no forward: one process, no workers")
        return 0
    if config.trainer.devices == 1 or config.cluster.mode != "auto":
        return workers
    mode, workers, why = _mode(inputs, workers)
    console.print(f"cluster.mode: {mode}, {why}")
    return workers


def _mode(inputs: RunInputs, workers: int) -> tuple[Mode, int, str]:
    """What cluster.mode = "auto" stands for with several devices, with how many workers, and
    why."""
    config, ranks = inputs.config, inputs.config.trainer.devices
    if workers == 0 and config.staleness_bound:
        lag, every = config.selection.lag, config.trainer.publish_every
        raise ConfigError(
            f"--workers: got 0 with trainer.devices = {ranks}, selection.lag = {lag} and"
            f" trainer.publish_every = {every}, allowed 1 or more, as devices that all score and"
            " then all train have nothing to overlap; or set lag to 0 and publish_every to 1"
        )
    if workers == 0:
        return "colocated", 0, "as there are no workers"
    if config.staleness_bound:
        return "split", workers, "in which scoring overlaps training"
    if config.cluster.address != "local":
        return "split", workers, "as workers may be on other machines"
    return chosen(inputs.plan.chunks, ranks, workers, config.trainer.scores)


def execute(
    inputs: RunInputs, folder: RunFolder, workers: int, console: Console, title: str
) -> dict[str, Any]:
    """Train to the end, with a live display called ``title``; returns the summary.

    Signals and the run's Control service can stop it. Raises RunStopped if it ends before its last
    step.
    """

    @contextmanager
    def watch(run: Run) -> Iterator[None]:
        show(run)
        stopped_by_signal(run)
        with controlled(run, inputs):
            yield

    print_line = partial(console.print, highlight=False, soft_wrap=True)
    config = inputs.config
    with (
        stopping(print_line) as stopped_by_signal,
        announced(config.metrics, folder.path),
        display(console, title, config.trainer.steps, _starting(workers)) as show,
    ):
        if workers == 0 and ranks_are_actors(config):
            from rhoselect.runtime.ray.colocated import run_ranks

            return run_ranks(inputs, folder, watch)
        if workers == 0 and config.trainer.in_ranks:
            from rhoselect.runtime.colocated import run_colocated

            return run_colocated(inputs, folder, watch)
        if workers == 0:
            return run_serial(inputs, folder, watch)
        from rhoselect.runtime.ray.cluster import run_cluster

        if config.trainer.devices > 1 and config.cluster.mode == "auto":
            inputs = replace(inputs, config=in_mode(config, _mode(inputs, workers)[0]))
        return run_cluster(inputs, folder, workers, watch)


def _starting(workers: int) -> str:
    """What a run does before its first step."""
    return f"starting {workers} scorer{'s' if workers > 1 else ''}" if workers else "starting"
