"""The interface through which the process that started a run observes and controls it.

It is the same for a run in one process and on a cluster, so that displays, signals and the Control
service work with both.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from rhoselect.errors import ConfigError
from rhoselect.metrics import WorkerState
from rhoselect.snapshots import SnapshotReader
from rhoselect.status import Status
from rhoselect.trainer.control import REQUEST_S, Action, StopPoint
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.types import QueueStats, TopK


@dataclass(frozen=True)
class Worker:
    """The state of one scorer. ``scored_points`` counts those of its current process. ``refused``:
    why it may not score, empty if it may."""

    slot: int
    state: WorkerState
    pid: int
    restarts: int
    scored_points: int
    refused: str = ""


def unscalable(workers: int) -> ConfigError:
    """The error for a run that cannot have scorers."""
    return ConfigError(
        f"workers: got {workers}, but this run was started with --workers 0, without scorers; stop"
        " it and resume it with --workers N to have them"
    )


class Control(Protocol):
    """A ``trainer.control.TrainerControl``, in this process or in another."""

    def request(self, action: Action, timeout_s: float = REQUEST_S) -> StopPoint:
        """See `TrainerControl.request`."""
        ...


class Run(Protocol):
    """A run. Thread-safe. Methods raise RunError once the run's processes have ended."""

    @property
    def control(self) -> Control:
        """Takes requests to the trainer."""
        ...

    @property
    def folder(self) -> RunFolder:
        """The run folder, with the run's generation."""
        ...

    @property
    def latest(self) -> Status:
        """The last known status, without a call to the trainer. Stays available after the end."""
        ...

    @property
    def stores(self) -> Callable[[], SnapshotReader] | None:
        """Makes readers of the run's snapshots; None for a run in one process."""
        ...

    def status(self) -> Status:
        """Ask the trainer for its current status."""
        ...

    def workers(self) -> list[Worker]:
        """The scorers by slot."""
        ...

    def scale(self, workers: int) -> None:
        """Start or end scorers until there are ``workers``. Raises ConfigError if the run cannot
        have that many."""
        ...

    def stats(self) -> QueueStats:
        """The state of the queue."""
        ...

    def peek(self, k: int) -> TopK | None:
        """The queue's best k points: see `SelectionQueue.peek`."""
        ...


Watch = Callable[[Run], AbstractContextManager[object]]
"""Makes a context manager for a run. It is entered once, before the run begins, and exited before
the run's processes are ended."""
