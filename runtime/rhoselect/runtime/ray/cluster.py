"""``--workers N``: one trainer actor and N scorer actors on Ray, a Redis-protocol server between.

The process of ``rhoctl`` starts the server and the actors and watches them. Scorers restart by
themselves, in the same slot; the trainer does not: its run goes on with ``--resume``.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, cast

import ray
from ray.exceptions import RayError

from rhoselect.config import Config
from rhoselect.errors import ConfigError, RunError, RunStopped
from rhoselect.hardware import releases
from rhoselect.inputs import RunInputs
from rhoselect.metrics import Metrics, withdraw
from rhoselect.runtime.machine import ray_folder, scratch
from rhoselect.runtime.queue_address import queue_url
from rhoselect.runtime.queue_server import EmbeddedServer
from rhoselect.runtime.ray import placement
from rhoselect.runtime.ray.actors import Endpoints, ScorerActor
from rhoselect.runtime.ray.fleet import STOP_S, Fleet, failure
from rhoselect.runtime.ray.ranks import Trainers
from rhoselect.runtime.ray.run import ClusterRun
from rhoselect.runtime.run import Watch
from rhoselect.snapshots.ray import start_board
from rhoselect.snapshots.shm import SharedMemoryStore
from rhoselect.trainer.resuming import how_to_resume
from rhoselect.trainer.runfolder import RunFolder

POLL_S = 0.2
TOKEN = secrets.token_hex(32)  # for all clusters of this process: Ray remembers it


def run_cluster(inputs: RunInputs, folder: RunFolder, workers: int, watch: Watch) -> dict[str, Any]:
    """Run to the end and return the summary. Raises RunError if the trainer dies."""
    config = inputs.config
    folder = replace(folder, path=folder.path.absolute())
    with ExitStack() as stack:
        url, server = queue_url(config.queue), None
        if url is None:
            server = stack.enter_context(EmbeddedServer(folder.path / "logs" / "queue-server.log"))
            url = server.url
        stack.enter_context(ray_session(config.cluster.address, workers))
        endpoints = endpoints_of(config, folder, url)
        stack.callback(shutil.rmtree, endpoints.folder, ignore_errors=True)
        return _run_actors(config, folder, endpoints, workers, watch, server)


def _run_actors(
    config: Config,
    folder: RunFolder,
    endpoints: Endpoints,
    workers: int,
    watch: Watch,
    server: EmbeddedServer | None,
) -> dict[str, Any]:
    how = how_to_resume(folder.path)
    trainers = Trainers(config, folder, endpoints, workers)
    metrics = Metrics("driver")
    metrics.serve(config.metrics, folder.path, "driver")
    with scorers(config, folder, endpoints, workers, how) as fleet:
        queue = endpoints.queue(config, folder, timeout_s=STOP_S)
        stores = partial(endpoints.snapshots, writer=False)
        run = ClusterRun(folder, trainers.lead, fleet, queue, stores)
        try:
            with watch(run), told(folder, how):
                placement.wait_for_actors(config, {**trainers.actors, **fleet.actors()})
                done = trainers.run()
                while True:
                    ready, _ = ray.wait([done, *fleet.runs()], timeout=POLL_S)
                    if done in ready:
                        summary: dict[str, Any] = ray.get(done)
                        return summary
                    if server is not None:
                        server.revive()
                    fleet.check(ready)
                    fleet.look()
                    metrics.observe_workers(*fleet.states())
                    run.refresh()
        finally:
            trainers.end()
            run.close()


@contextmanager
def told(folder: RunFolder, how: str) -> Iterator[None]:
    """Turn Ray's errors about the trainer into those for users."""
    try:
        yield
    except RayError as error:
        raise failure(error, "the trainer", folder, how) from None


@contextmanager
def scorers(
    config: Config, folder: RunFolder, endpoints: Endpoints, workers: int, how: str
) -> Iterator[Fleet]:
    """Scorer actors, ``workers`` at first, until the block ends, which also deletes the queue.
    ``how`` is the command that continues the run, for the message when a scorer fails."""
    queue = endpoints.queue(config, folder, timeout_s=STOP_S)

    def forget(slot: int) -> None:
        queue.reap(slot)
        withdraw(config.metrics, folder.path, str(slot))

    fleet = Fleet(partial(_start_scorer, config, folder, endpoints), forget, folder, how)
    try:
        placement.tell_sharing(config, workers)
        fleet.scale(workers)
        yield fleet
    finally:
        fleet.close()
        # Last, as a push that came late would leave a key behind. A lost server keeps nothing.
        with suppress(RunError):
            queue.destroy()
        queue.disconnect()


def _start_scorer(
    config: Config, folder: RunFolder, endpoints: Endpoints, slot: int, workers: int
) -> Any:
    actor = cast(Any, ray).remote(ScorerActor)  # Ray's own types do not know an actor's methods
    options = actor.options(
        **placement.scorer_options(config),
        max_concurrency=2,
        max_restarts=-1,
        max_task_retries=-1,
        enable_task_events=False,
    )
    return options.remote(slot, workers, config.model_dump_json(), folder, endpoints)


def endpoints_of(config: Config, folder: RunFolder, url: str) -> Endpoints:
    transport = config.snapshots.transport
    if transport == "auto":
        transport = "shm" if config.cluster.address == "local" else "ray"
    board = start_board() if transport == "ray" else None
    shared = SharedMemoryStore.new_folder(folder.run_id, folder.generation)
    return Endpoints(url, board, shared, releases())


@contextmanager
def ray_session(address: str, workers: int) -> Iterator[None]:
    """The Ray cluster already joined, one started here ("local"), or the one at an address."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        # Logical CPUs: N scorers on fewer cores run slowly but do start. Ray would run them at
        # nice 15, behind anything else that this machine does.
        cpus = max(os.cpu_count() or 1, workers + 1)
        options |= {"num_cpus": cpus, "include_dashboard": False}
        options |= {"_system_config": {"worker_niceness": 0}}
    with ExitStack() as stack:
        if address == "local":
            options["_temp_dir"] = str(stack.enter_context(scratch("ray", ray_folder())))
            stack.enter_context(_own_token())
        stack.enter_context(_initialised(address, options))
        yield


@contextmanager
def _own_token() -> Iterator[None]:
    """Protect a cluster started here with a secret token, unless RAY_AUTH_TOKEN is set: other users
    of this machine may be able to read the token that Ray makes, ~/.ray/auth_token."""
    if "RAY_AUTH_TOKEN" in os.environ:
        yield
        return
    os.environ["RAY_AUTH_TOKEN"] = TOKEN
    try:
        yield
    finally:
        os.environ.pop("RAY_AUTH_TOKEN")


@contextmanager
def _initialised(address: str, options: dict[str, Any]) -> Iterator[None]:
    terminated = signal.getsignal(signal.SIGTERM)
    # Ray's processes inherit this. A hang-up is for this process, which still needs them to end in
    # order.
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    # Ray would print what it knows of each dead process, in several lines: the run says it in one.
    private = cast(Any, ray)._private
    private.worker.print_to_stdstream = lambda *_, **__: None
    # In C++, in this process alone: it would end it at SIGTERM, with a trace.
    private.ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = True
    taking = private.utils.set_sigterm_handler
    if callable(terminated):  # it stops the run in order, as soon as there is one
        private.utils.set_sigterm_handler = lambda _: None
    try:
        ray.init(address=address, **options)
    except SystemExit:  # SIGTERM without a handler of ours: Ray has taken it while it starts
        stopped = RunStopped("SIGTERM: stopped while Ray was starting; continue with --resume")
        stopped.exit_code = 128 + signal.SIGTERM
        raise stopped from None
    except Exception as error:  # Ray raises no more special one when a node does not start
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"cluster.address: cannot join {address!r}: {reason}; allowed 'local' or the address of"
            " a running cluster whose token (~/.ray/auth_token) is here, too"
        ) from None
    finally:
        private.utils.set_sigterm_handler = taking
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminated)  # which Ray has taken
    try:
        yield
    finally:
        if address == "local":
            ray.shutdown(wait_for_processes=True)  # their folder is removed next
        else:
            ray.shutdown()
