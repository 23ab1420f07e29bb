"""One run with scorers in forked processes, some of which are in trouble; no Ray.

The parent has imported everything and computed nothing, so a fork is a ready interpreter. Queue
server, snapshots in shared memory, scorers and trainer are those of a real run; devices are
emulated (``emulated``). A scenario says which scorers are slower than declared, which one is
stopped (SIGSTOP) for seconds at a time, and how long after its publication a scorer gets a
snapshot. The trainer has its own weights at once.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.context import ForkProcess as Process
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor, nn

import emulated
from rhoselect import config as configuration
from rhoselect.compute import keep_memory
from rhoselect.config import Config
from rhoselect.inputs import open_inputs
from rhoselect.metrics import Metrics
from rhoselect.queue.redis import RedisQueue
from rhoselect.runtime.queue_address import open_queue
from rhoselect.runtime.queue_server import EmbeddedServer
from rhoselect.scorer.build import build_scorer
from rhoselect.snapshots.base import Pieces, State
from rhoselect.snapshots.shm import SharedMemoryStore
from rhoselect.trainer.build import build_trainer
from rhoselect.trainer.control import TrainerControl
from rhoselect.trainer.runfolder import RunFolder

START_S = 300.0  # longest wait until all processes are ready
FORK = multiprocessing.get_context("fork")
Row = dict[str, Any]
Look = Callable[[Path], Row]
Times = npt.NDArray[np.float64]
_slower = [1.0]  # how many times slower than declared this process's device scores


@dataclass(frozen=True)
class Scenario:
    """What is wrong: the first ``slow`` of all scorers are ``times`` slower, the next is stopped
    for ``frozen_s`` after every ``awake_s``, snapshots come ``delay_s`` after their publication."""

    scorers: int = 16
    slow: int = 0
    times: float = 1.0
    awake_s: float = 0.0
    frozen_s: float = 0.0
    delay_s: float = 0.0


def mlp(
    input_shape: tuple[int, ...], classes: int, precision_factor: float, **args: Any
) -> nn.Module:
    """The emulated mlp, as slow as this process's device is."""
    factor = precision_factor * _slower[0]
    return emulated.mlp(input_shape, classes, precision_factor=factor, **args)


class LateStore(SharedMemoryStore):
    """Snapshots that scorers get ``delay_s`` after their publication began; the trainer at once.

    ``published`` [versions] holds those times (time.monotonic; 0: not yet), for all processes.
    """

    def __init__(self, folder: Path, writer: bool, published: Times, delay_s: float) -> None:
        super().__init__(folder, writer)
        self._is_late, self._published, self._delay_s = not writer, published, delay_s

    def publish(
        self,
        version: int,
        tensors: Mapping[str, Tensor],
        layout: Mapping[str, torch.dtype],
        state: State,
    ) -> None:
        self._published[version] = time.monotonic()
        super().publish(version, tensors, layout, state)

    def retire(self, below: int) -> None:
        # What is on its way stays, and one before it: a scorer may be about to load that.
        super().retire(min(below, max(0, self._newest_here() - 1)))

    def load(
        self, version: int, into: Callable[[Pieces], None], timeout_s: float
    ) -> dict[str, Tensor] | None:
        deadline = time.monotonic() + timeout_s
        if self._is_late:
            if not self._published[version]:
                super().load(version, lambda _: None, timeout_s)  # woken when it is published
            if not self._comes(version, deadline):
                return None
        return super().load(version, into, max(0.0, deadline - time.monotonic()))

    def _comes(self, version: int, deadline: float) -> bool:
        """Wait until a published snapshot is here; False if it is not before ``deadline``."""
        here = self._published[version] + self._delay_s
        in_time = bool(self._published[version]) and here <= deadline
        time.sleep(max(0.0, (here if in_time else deadline) - time.monotonic()))
        return in_time

    def _newest_here(self) -> int:
        here = (self._published > 0) & (self._published + self._delay_s <= time.monotonic())
        return int(max(np.flatnonzero(here), default=0))


@dataclass(frozen=True)
class Setup:
    """What all processes of a run are given at the fork."""

    config: Config
    folder: RunFolder
    queue_url: str
    shared: Path
    published: Times
    scenario: Scenario
    ready: Barrier

    def queue(self) -> RedisQueue:
        folder = self.folder
        return open_queue(self.config, self.queue_url, folder.run_id, folder.generation)

    def snapshots(self, writer: bool) -> SharedMemoryStore:
        if self.scenario.delay_s:
            return LateStore(self.shared, writer, self.published, self.scenario.delay_s)
        return SharedMemoryStore(self.shared, writer)


def run(config: Path, folder: Path, scenario: Scenario, control: TrainerControl, look: Look) -> Row:
    """Train to the end, or until ``control`` stops the run. Returns what ``look`` finds in the run
    folder, and the seconds of wall-clock."""
    assert threading.active_count() == 1, "only a process of one thread may fork"
    pa.array([0])  # which makes pyarrow import pandas: once here, not in every process
    read = configuration.load(config)
    run_folder = RunFolder.create(folder, read)
    shared = SharedMemoryStore.new_folder(run_folder.run_id, run_folder.generation)
    published = np.frombuffer(mmap.mmap(-1, 8 * (read.trainer.steps + 1)), np.float64)
    ready = FORK.Barrier(scenario.scorers + 2)
    with EmbeddedServer(folder / "logs" / "queue-server.log") as server:
        setup = Setup(read, run_folder, server.url, shared, published, scenario, ready)
        slots = range(scenario.scorers)
        scorers = [FORK.Process(target=_score, args=(setup, slot)) for slot in slots]
        trainer = FORK.Process(target=_train, args=(setup, control, look))
        started = []
        try:
            for process in (*scorers, trainer):
                process.start()
                started.append(process)
            ready.wait(START_S)
            _watch(scorers, trainer, scenario)
        finally:
            for process in started:
                process.kill()
                process.join()
            shutil.rmtree(shared, ignore_errors=True)
    result: Row = json.loads((folder / "result.json").read_text())
    return result


def _watch(scorers: list[Process], trainer: Process, scenario: Scenario) -> None:
    """Freeze and thaw until the trainer has ended. Raises SystemExit if a process failed."""
    while trainer.is_alive():
        trainer.join(scenario.awake_s or None)
        if trainer.is_alive():
            frozen = scorers[scenario.slow].pid or 0
            os.kill(frozen, signal.SIGSTOP)
            trainer.join(scenario.frozen_s)
            os.kill(frozen, signal.SIGCONT)
    dead = [slot for slot, scorer in enumerate(scorers) if not scorer.is_alive()]
    if trainer.exitcode or dead:
        raise SystemExit(f"the run failed: trainer {trainer.exitcode}, dead scorers {dead}")


def _score(setup: Setup, slot: int) -> None:
    """A scorer's process, until it is killed."""
    _begin()
    _slower[0] = setup.scenario.times if slot < setup.scenario.slow else 1.0
    inputs = open_inputs(setup.config)
    share, cpu = inputs.config.lanes(setup.scenario.scorers), torch.device("cpu")
    queue, snapshots = setup.queue(), setup.snapshots(writer=False)
    scorer = build_scorer(inputs, cpu, slot, share, queue, snapshots, Metrics("scorer"))
    setup.ready.wait(START_S)
    scorer.run(threading.Event())


def _train(setup: Setup, control: TrainerControl, look: Look) -> None:
    """The trainer's process; what it finds goes into a file, as the parent computes nothing."""
    _begin()
    inputs, folder = open_inputs(setup.config), setup.folder
    queue, snapshots = setup.queue(), setup.snapshots(writer=True)
    workers = setup.scenario.scorers
    trainer = build_trainer(inputs, folder, queue, snapshots, Metrics(), workers, control)
    setup.ready.wait(START_S)
    started = time.monotonic()
    trainer.run()
    wall_s = time.monotonic() - started
    snapshots.close()
    (folder.path / "result.json").write_text(json.dumps({**look(folder.path), "wall_s": wall_s}))


def _begin() -> None:
    """What every process of a run does first."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with the parent
    torch.set_num_threads(1)
    keep_memory()
