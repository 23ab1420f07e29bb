"""A run for a user's own training loop, as its operator observes and controls it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rhoselect.errors import ConfigError
from rhoselect.queue import SelectionQueue
from rhoselect.queue.base import HELPERS
from rhoselect.runtime.run import Worker
from rhoselect.selector.fence import Fence
from rhoselect.selector.session import Session
from rhoselect.snapshots import SnapshotStore
from rhoselect.status import Status
from rhoselect.trainer.control import REQUEST_S, Action, StopPoint
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.types import QueueStats, TopK


class Scorers(Protocol):
    """The scorers of a generation; ``fleet.Fleet`` is one. Thread-safe."""

    def workers(self) -> list[Worker]:
        """The scorers by slot."""
        ...

    def scale(self, workers: int) -> None:
        """Start or end scorers until there are ``workers``."""
        ...

    def look(self) -> None:
        """Ask each scorer for its state."""
        ...


@dataclass(frozen=True)
class Backends:
    """The queue, snapshots, fence and scorers (None: none) of a generation. ``status_queue`` is its
    queue for other threads."""

    queue: SelectionQueue
    snapshots: SnapshotStore
    fence: Fence
    status_queue: SelectionQueue
    scorers: Scorers | None = None


@dataclass(frozen=True)
class _Open:
    session: Session
    backends: Backends


class NoControl:
    """The control of a served run: the user's loop trains, so nothing can be requested of it."""

    def request(self, action: Action, timeout_s: float = REQUEST_S) -> StopPoint:
        """Raises ConfigError."""
        raise ConfigError(
            f"{action}: got a served run, in which your own loop trains; allowed status,"
            " watch, scale and queue peek; stop that loop, or end the service with Ctrl-C"
        )


class ServedRun:
    """A ``runtime.run.Run`` of ``count`` scorers; ``scores``: this process does, too. It shows the
    open session, if there is one."""

    stores = None

    def __init__(self, path: Path, count: int, scores: bool = True) -> None:
        self.folder, self.count = RunFolder.newest(path), count
        self._least = 0 if scores else 1
        self.control = NoControl()
        self.changing = threading.Lock()
        """Hold this lock to open a session or to change ``count``."""
        self._in_process = count == 0
        self._open: _Open | None = None
        self._last = Status(0)

    @contextmanager
    def watching(self, folder: RunFolder, session: Session, backends: Backends) -> Iterator[None]:
        """Show this session until the block ends or a newer session is opened."""
        self.folder, self._open = folder, _Open(session, backends)
        try:
            yield
        finally:
            self._last = session.latest
            if self.folder is folder:
                self._open = None

    def poll(self) -> None:
        """Update the scorers' state. Call this every second or more often."""
        if (now := self._open) and now.backends.scorers is not None:
            now.backends.scorers.look()

    @property
    def latest(self) -> Status:
        """See `Run.latest`."""
        return now.session.latest if (now := self._open) else self._last

    def status(self) -> Status:
        """See `Run.status`."""
        return self.latest

    def workers(self) -> list[Worker]:
        """See `Run.workers`; none between sessions."""
        scorers = now.backends.scorers if (now := self._open) else None
        return [] if scorers is None else scorers.workers()

    def scale(self, workers: int) -> None:
        """See `Run.scale`. Later sessions also have ``workers`` scorers."""
        if not self._least <= workers <= HELPERS:
            raise ConfigError(f"workers: got {workers}, allowed {self._least} to {HELPERS}")
        if self._in_process:
            raise ConfigError(
                f"workers: got {workers}, but this run is served with --workers 0, in one process;"
                " serve it again with --workers N to have scorers"
            )
        with self.changing:
            self.count = workers
            if (now := self._open) and now.backends.scorers is not None:
                try:
                    now.backends.scorers.scale(workers)
                finally:
                    now.session.share(workers)

    def stats(self) -> QueueStats:
        """See `Run.stats`."""
        if now := self._open:
            return now.backends.status_queue.stats()
        return QueueStats(windows=0, waiting=0, leased=0, points=0, oldest_version=None)

    def peek(self, k: int) -> TopK | None:
        """See `Run.peek`."""
        return now.backends.status_queue.peek(k) if (now := self._open) else None
