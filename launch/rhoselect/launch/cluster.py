"""``--workers N``: one trainer actor and N scorer actors on Ray, a Redis-protocol server between.

The process of ``rhoctl`` starts the server and the actors and watches them. Scorers restart by
themselves, in the same slot; the trainer does not: its run goes on with ``--resume``.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import ray
from ray.exceptions import AuthenticationError, GetTimeoutError, RayActorError, RayTaskError

from rhoselect import config as configuration
from rhoselect.compute import keep_memory
from rhoselect.config import Config
from rhoselect.errors import ConfigError, RhoError, RunError
from rhoselect.launch import placement
from rhoselect.launch.endpoints import queue_url
from rhoselect.launch.pulse import Pulse
from rhoselect.launch.serial import Watch
from rhoselect.launch.server import EmbeddedServer
from rhoselect.launch.wiring import Prepared, build_scorer, build_trainer, prepare, run_trainer
from rhoselect.metrics import Metrics
from rhoselect.queue.redis import RedisQueue, RedisStream
from rhoselect.snapshots import SnapshotStore
from rhoselect.snapshots.ray import RayStore, start_board
from rhoselect.snapshots.shm import SharedMemoryStore
from rhoselect.trainer.ground import Status
from rhoselect.trainer.loop import Trainer
from rhoselect.trainer.runfolder import RunFolder, check_inputs
from rhoselect.trainer.windows import lanes

POLL_S = 0.2
STOP_S = 5.0  # for scorers to end by themselves: Ray reports killed ones as failures
EXPIRY_S = 24 * 3600.0  # what an abandoned run leaves on a shared server is gone after a day


@dataclass(frozen=True)
class Endpoints:
    """How an actor reaches queue and snapshots: ``board`` is None for shared memory.

    ``versions`` are those that the run began with.
    """

    queue_url: str
    board: Any
    folder: Path
    versions: str

    def queue(
        self, config: Config, run: RunFolder, timeout_s: float | None = None
    ) -> RedisQueue | RedisStream:
        timeout_s = timeout_s or config.queue.timeout_s
        selection, stream = config.selection, config.stream
        if selection.mode == "stream":
            return RedisStream(
                self.queue_url,
                run.run_id,
                run.generation,
                chunks=selection.n_B // selection.chunk,
                capacity=config.capacity,
                ahead=stream.ahead,
                max_age=stream.max_age,
                expiry_s=EXPIRY_S,
                timeout_s=timeout_s,
            )
        return RedisQueue(
            self.queue_url,
            run.run_id,
            run.generation,
            lease_s=config.queue.lease_s,
            expiry_s=EXPIRY_S,
            timeout_s=timeout_s,
        )

    def check_node(self, config: Config, run: RunFolder) -> None:
        """Raise ConfigError, naming this actor's node, unless it can take part in the run."""
        placement.check_node(config, run.path, self.queue_url, self.versions)

    def snapshots(self, writer: bool) -> SnapshotStore:
        if self.board is not None:
            return RayStore(self.board)
        return SharedMemoryStore(self.folder, writer)


class ScorerActor:
    """A scorer in a process of its own."""

    def __init__(
        self, slot: int, workers: int, config: str, run: RunFolder, endpoints: Endpoints
    ) -> None:
        self._stop = threading.Event()
        self._slot, self._workers = slot, workers
        self._run, self._endpoints = run, endpoints
        self._config = configuration.from_json(config)

    def run(self) -> None:
        """Score until stopped."""
        keep_memory()
        config, metrics = self._config, Metrics("scorer")
        self._endpoints.check_node(config, self._run)
        _log_to(self._run.path / "logs" / f"scorer-{self._slot}.log")
        logging.info("scorer %d of process %d starts", self._slot, os.getpid())
        metrics.serve(config.metrics, self._run.path, str(self._slot))
        queue = self._endpoints.queue(config, self._run)
        snapshots = self._endpoints.snapshots(writer=False)
        share = lanes(config, self._workers)
        prepared = _prepared(config, self._run)
        scorer = build_scorer(prepared, self._slot, share, queue, snapshots, metrics)
        scorer.run(self._stop)
        snapshots.close()

    def process(self) -> int:
        """This process's number: another one after a restart."""
        return os.getpid()

    def stop(self) -> None:
        """Let ``run`` return after its present ticket."""
        self._stop.set()


class TrainerActor:
    """The trainer in a process of its own; ``status`` answers while ``run`` runs."""

    def __init__(self, config: str, run: RunFolder, endpoints: Endpoints, workers: int) -> None:
        self._config = configuration.from_json(config)
        self._run, self._endpoints, self._workers = run, endpoints, workers
        self._trainer: Trainer | None = None

    def run(self) -> dict[str, Any]:
        """Train to the end and return the summary."""
        keep_memory()
        config, metrics = self._config, Metrics()
        self._endpoints.check_node(config, self._run)
        _log_to(self._run.path / "logs" / "trainer.log")
        logging.info("trainer of process %d starts", os.getpid())
        metrics.serve(config.metrics, self._run.path, "trainer")
        queue = self._endpoints.queue(config, self._run)
        snapshots = self._endpoints.snapshots(writer=True)
        prepared = _prepared(config, self._run)
        try:
            self._trainer = build_trainer(
                prepared, self._run, queue, snapshots, metrics, self._workers
            )
            return run_trainer(prepared, self._run, self._trainer, self._workers)
        finally:
            snapshots.close()

    def status(self) -> Status:
        """A look at the run."""
        return self._trainer.status if self._trainer else Status(0)


def run_cluster(
    prepared: Prepared, folder: RunFolder, workers: int, watch: Watch
) -> dict[str, Any]:
    """Run to the end and return the summary. Raises RunError if the trainer dies."""
    config = placement.rooted(prepared.config)
    folder = replace(folder, path=folder.path.absolute())
    with ExitStack() as stack:
        url = queue_url(config.queue)
        if url is None:
            log = folder.path / "logs" / "queue-server.log"
            url = stack.enter_context(EmbeddedServer(log)).url
        stack.enter_context(joined(config.cluster.address, workers))
        endpoints = endpoints_of(config, folder, url)
        stack.callback(shutil.rmtree, endpoints.folder, ignore_errors=True)
        return _run_actors(config, folder, endpoints, workers, watch)


def _run_actors(
    config: Config, folder: RunFolder, endpoints: Endpoints, workers: int, watch: Watch
) -> dict[str, Any]:
    # Any: Ray's own types do not know the methods of an actor handle.
    text, ray_any = config.model_dump_json(), cast(Any, ray)
    trainer = (
        ray_any.remote(TrainerActor)
        .options(**placement.trainer_options(config), max_concurrency=2)
        .remote(text, folder, endpoints, workers)
    )
    done = trainer.run.remote()
    latest = [Status(0)]
    watch(lambda: latest[0])
    with scorers(config, folder, endpoints, workers) as working:
        try:
            while True:
                ready, _ = ray.wait([done, *working], timeout=POLL_S)
                if ready:  # the summary, or the error of whoever failed first
                    summary: dict[str, Any] = ray.get(ready[0])
                    return summary
                with suppress(GetTimeoutError):
                    latest[0] = ray.get(trainer.status.remote(), timeout=STOP_S)
        except (RayTaskError, RayActorError) as error:
            # Nothing ready: it was the trainer, asked for its status.
            slot = working.index(ready[0]) if ready and ready[0] != done else None
            who = "the trainer" if slot is None else f"scorer {slot}"
            how = f"rhoctl train --resume --run-dir {folder.path}"
            raise failure(error, who, folder, how) from None
        finally:
            ray.kill(trainer)


@contextmanager
def scorers(
    config: Config, folder: RunFolder, endpoints: Endpoints, workers: int
) -> Iterator[list[Any]]:
    """Scorer actors in their slots until the block ends; yields what each of their runs gives,
    which is an error if it comes before. What they leave in the queue goes with them."""
    scorer_class = (
        cast(Any, ray)
        .remote(ScorerActor)
        .options(
            **placement.scorer_options(config),
            max_concurrency=2,
            max_restarts=-1,
            max_task_retries=-1,
        )
    )
    text = config.model_dump_json()
    actors = [
        scorer_class.remote(slot, workers, text, folder, endpoints) for slot in range(workers)
    ]
    working = [actor.run.remote() for actor in actors]
    try:
        yield working
    finally:
        for actor in actors:
            actor.stop.remote()
        ray.wait(working, num_returns=len(working), timeout=STOP_S)
        for actor in actors:
            ray.kill(actor)
        # Last, as a push that came late would leave a key behind. A lost server keeps nothing.
        with suppress(RunError):
            endpoints.queue(config, folder, timeout_s=STOP_S).destroy()


def failure(error: Exception, who: str, folder: RunFolder, how: str) -> RhoError:
    """What an actor's error is to a user, who may go on with the command ``how``."""
    if isinstance(error, RayTaskError):
        if isinstance(error.cause, RhoError):
            return error.cause
        return RunError(f"an actor failed: {error.cause!r}; see {folder.path}/logs")
    reason = str(error).splitlines()[0]
    return RunError(f"{who} died ({reason}); continue with: {how}")


def endpoints_of(config: Config, folder: RunFolder, url: str) -> Endpoints:
    transport = config.snapshots.transport
    if transport == "auto":
        transport = "shm" if config.cluster.address == "local" else "ray"
    board = start_board() if transport == "ray" else None
    shared = SharedMemoryStore.new_folder(folder.run_id, folder.generation)
    return Endpoints(url, board, shared, placement.versions())


@contextmanager
def joined(address: str, workers: int) -> Iterator[None]:
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
    try:
        ray.init(address=address, **options)
    except (AuthenticationError, ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"cluster.address: cannot join {address!r}: {reason}; allowed 'local' or the address of"
            " a running cluster whose token (~/.ray/auth_token) is here, too"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _prepared(config: Config, run: RunFolder) -> Prepared:
    """A run's inputs, seen from this actor: they must still be those that the run began with."""
    prepared = prepare(config)
    check_inputs(run.path, prepared.inputs_sha256)
    return prepared


def _log_to(path: Path) -> None:
    logging.basicConfig(
        filename=path, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
