"""The processes of a run on Ray: a trainer and scorers, and how they reach queue and snapshots."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rhoselect import config as configuration
from rhoselect.compute import keep_memory
from rhoselect.config import Config
from rhoselect.devices import scorer_device
from rhoselect.hardware import Facts
from rhoselect.inputs import RunInputs, open_inputs
from rhoselect.inputs.probe import scoring_facts
from rhoselect.metrics import Metrics
from rhoselect.queue import SelectionQueue
from rhoselect.queue.memory import MemoryQueue
from rhoselect.queue.redis import RedisQueue
from rhoselect.ranks.scores import SharedQueue
from rhoselect.runtime.crew import Mode, Started
from rhoselect.runtime.followers import followers_here
from rhoselect.runtime.leading import LeadControl
from rhoselect.runtime.local import SerialRun, run_here
from rhoselect.runtime.queue_address import open_queue
from rhoselect.runtime.ray import placement
from rhoselect.runtime.ray.followers import followers_on
from rhoselect.runtime.run import Run
from rhoselect.scorer.build import build_scorer
from rhoselect.scorer.loop import Scorer
from rhoselect.snapshots import SnapshotStore
from rhoselect.snapshots.ray import RayStore
from rhoselect.snapshots.shm import SharedMemoryStore
from rhoselect.status import Status
from rhoselect.trainer.build import build_trainer, run_trainer
from rhoselect.trainer.checkpoint import newest_progress
from rhoselect.trainer.control import Action, StopPoint, TrainerControl
from rhoselect.trainer.hardware import agree
from rhoselect.trainer.loop import Trainer
from rhoselect.trainer.rehearsal import rehearse_on_gpu
from rhoselect.trainer.runfolder import RunFolder, check_inputs
from rhoselect.types import QueueStats, TopK


@dataclass(frozen=True)
class Endpoints:
    """How an actor reaches queue and snapshots: ``board`` is None for shared memory, ``queue_url``
    where all ranks score. ``releases`` are those that the run began with.
    """

    queue_url: str | None = field(repr=False)  # it may hold a password
    board: Any
    folder: Path
    releases: Facts

    def queue(self, config: Config, run: RunFolder, timeout_s: float | None = None) -> RedisQueue:
        """The run's queue; ``timeout_s`` instead of queue.timeout_s."""
        assert self.queue_url is not None, "there are scorers"
        return open_queue(config, self.queue_url, run.run_id, run.generation, timeout_s)

    def check_node(self, config: Config, run: RunFolder) -> None:
        """Raise ConfigError, naming this actor's node, unless it can take part in the run."""
        placement.check_node(config, run.path, self.queue_url, self.releases)

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
        self._config, self._metrics = configuration.from_json(config), Metrics("scorer")
        self._scorer: Scorer | None = None

    def run(self) -> None:
        """Score until stopped."""
        keep_memory()
        config, metrics = self._config, self._metrics
        self._endpoints.check_node(config, self._run)
        log_to(self._run.path / "logs" / f"scorer-{self._slot}.log")
        logging.info("scorer %d of process %d starts", self._slot, os.getpid())
        metrics.serve(config.metrics, self._run.path, str(self._slot))
        queue = self._endpoints.queue(config, self._run)
        snapshots = self._endpoints.snapshots(writer=False)
        share = config.lanes(self._workers)
        inputs = inputs_of(config, self._run)
        device = scorer_device(config, self._slot, config.cluster.address == "local")
        self._scorer = build_scorer(inputs, device, self._slot, share, queue, snapshots, metrics)
        facts = scoring_facts(inputs, self._scorer.weights.replica)
        process = f"process {os.getpid()} on {socket.gethostname()}"
        agree(self._run, f"scorer {self._slot} ({process})", facts)
        logging.info("scorer %d of process %d is ready", self._slot, os.getpid())
        self._scorer.run(self._stop)
        snapshots.close()

    def look(self, workers: int) -> tuple[int, int]:
        """The process and the points it has scored; it is one of ``workers`` from now on."""
        self._workers = workers
        if self._scorer is not None:
            self._scorer.share(self._slot, self._config.lanes(workers))
        return os.getpid(), self._metrics.points_scored()

    def stop(self) -> None:
        """Let ``run`` return after its present ticket."""
        self._stop.set()


class TrainerActor:
    """The trainer in a process of its own; all else answers while ``run`` runs."""

    def __init__(self, config: str, run: RunFolder, endpoints: Endpoints, workers: int) -> None:
        self._config = configuration.from_json(config)
        self._run, self._endpoints, self._workers = run, endpoints, workers
        self._trainer: Trainer | None = None
        self._lead = LeadControl() if self._config.trainer.in_ranks else None
        self._control = self._lead or TrainerControl()
        self._queue: SelectionQueue = MemoryQueue(self._config.queue.lease_s)
        self._before = Status(**vars(newest_progress(run.path)))

    def run(self, followers: Sequence[Any] = ()) -> dict[str, Any]:
        """Train to the end and return the summary. ``followers`` are the actors of the other ranks;
        without them they are processes of this machine."""
        keep_memory()
        self._endpoints.check_node(self._config, self._run)
        log_to(self._run.path / "logs" / "trainer.log")
        logging.info("trainer of process %d starts", os.getpid())
        inputs = inputs_of(self._config, self._run)
        start = partial(followers_on, followers) if followers else followers_here
        rehearse_on_gpu(inputs)
        scores = self._endpoints.queue_url is None
        return self._colocated(inputs, start) if scores else self._beside_scorers(inputs, start)

    def _colocated(self, inputs: RunInputs, start: Callable[..., Started]) -> dict[str, Any]:
        assert self._lead is not None, "all ranks score"

        @contextmanager
        def watch(run: Run) -> Iterator[None]:
            assert isinstance(run, SerialRun)
            self._trainer = run.trainer
            yield

        with self._lead.leading(self._config, self._run, "colocated", start) as group:
            self._queue = queue = SharedQueue(self._config.queue.lease_s, group)
            return run_here(inputs, self._run, watch, queue, self._lead, group)

    def _beside_scorers(self, inputs: RunInputs, start: Callable[..., Started]) -> dict[str, Any]:
        config, metrics = self._config, Metrics()
        metrics.serve(config.metrics, self._run.path, "trainer")
        queue = self._endpoints.queue(config, self._run)
        snapshots = self._endpoints.snapshots(writer=True)
        folder = replace(self._run, queue=queue)
        try:
            mode: Mode = "colocated" if config.cluster.mode == "colocated" else "split"
            told = self._endpoints.queue_url if start is followers_here else None
            lead = self._lead and self._lead.leading(
                config, folder, mode, start, self._workers, told or ""
            )
            with lead or nullcontext() as group:
                self._trainer = build_trainer(
                    inputs, folder, queue, snapshots, metrics, self._workers, self._control, group
                )
                self.share(self._workers)  # followers may have been told another number
                return run_trainer(inputs, folder, self._trainer, self._workers)
        finally:
            snapshots.close()

    def status(self) -> Status:
        """A look at the run."""
        if self._trainer is None:  # it is still being built
            return replace(self._before, paused=self._control.paused)
        return self._trainer.look()

    def stats(self) -> QueueStats:
        """The state of the queue of ranks that score."""
        return self._queue.stats()

    def peek(self, k: int) -> TopK | None:
        """The best k points of that queue."""
        return self._queue.peek(k)

    def share(self, workers: int) -> None:
        """There are ``workers`` scorers from now on."""
        self._workers = workers
        if self._trainer is not None:
            self._trainer.share(workers)
        if self._lead is not None:
            self._lead.share(workers)

    def request(self, action: Action, timeout_s: float) -> StopPoint:
        """See `TrainerControl.request`."""
        return self._control.request(action, timeout_s)


def inputs_of(config: Config, run: RunFolder) -> RunInputs:
    """A run's inputs, seen from this actor: they must still be those that the run began with."""
    inputs = open_inputs(config)
    check_inputs(run.path, inputs.sha256)
    return inputs


def log_to(path: Path) -> None:
    """Have this actor write its log there."""
    logging.basicConfig(
        filename=path, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
