"""A running run, as the process that started it sees and steers it.

The same for one process and for a cluster: displays, signals and the Control service know neither.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from rhoselect.metrics import WorkerState
from rhoselect.snapshots import SnapshotReader
from rhoselect.trainer.gate import Stand
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.trainer.status import Status
from rhoselect.types import Popped, QueueStats


@dataclass(frozen=True)
class Worker:
    """A look at a scorer; ``scored_points`` by its present process."""

    slot: int
    state: WorkerState
    pid: int
    restarts: int
    scored_points: int


class Asked(Protocol):
    """A ``trainer.gate.Gate``, near or far."""

    def pause(self, timeout_s: float) -> Stand:
        """Have the trainer wait from the end of its present step on."""
        ...

    def resume(self) -> None:
        """Let a paused trainer go on."""
        ...

    def checkpoint(self, timeout_s: float) -> Stand:
        """Have a checkpoint made at the end of the present step."""
        ...

    def stop(self, timeout_s: float) -> Stand:
        """Have the run end after its present step, with a checkpoint."""
        ...


class Run(Protocol):
    """Thread-safe. Raises RunError for what cannot be had any more."""

    @property
    def gate(self) -> Asked:
        """What the trainer can be asked."""
        ...

    @property
    def folder(self) -> RunFolder:
        """Where it is, and its generation."""
        ...

    @property
    def latest(self) -> Status:
        """The status as last seen, without asking; after the end, too."""
        ...

    @property
    def stores(self) -> Callable[[], SnapshotReader] | None:
        """Makes readers of the run's snapshots; None for a run in one process."""
        ...

    def status(self) -> Status:
        """The status of now."""
        ...

    def workers(self) -> list[Worker]:
        """The scorers by slot."""
        ...

    def scale(self, workers: int) -> None:
        """Have ``workers`` scorers from now on. Raises ConfigError where that cannot be."""
        ...

    def stats(self) -> QueueStats:
        """A look at the queue."""
        ...

    def peek(self, k: int) -> Popped | None:
        """The queue's best k points: see `SelectionQueue.peek`."""
        ...


Watch = Callable[[Run], AbstractContextManager[object]]
"""What a runner enters once with its run, and leaves before it takes the run apart."""
