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
from rhoselect.status import Status
from rhoselect.trainer.control import REQUEST_S, Action, StopPoint
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.types import QueueStats, TopK


@dataclass(frozen=True)
class Worker:
    """A look at a scorer; ``scored_points`` by its present process."""

    slot: int
    state: WorkerState
    pid: int
    restarts: int
    scored_points: int


class Control(Protocol):
    """A ``trainer.control.TrainerControl``, in this process or in another."""

    def request(self, action: Action, timeout_s: float = REQUEST_S) -> StopPoint:
        """See `TrainerControl.request`."""
        ...


class Run(Protocol):
    """Thread-safe. Raises RunError for what cannot be had any more."""

    @property
    def control(self) -> Control:
        """Where requests to the trainer go."""
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

    def peek(self, k: int) -> TopK | None:
        """The queue's best k points: see `SelectionQueue.peek`."""
        ...


Watch = Callable[[Run], AbstractContextManager[object]]
"""What a runner enters once with its run, and leaves before it takes the run apart."""
