"""Runs of Ray actors, as their driver observes and controls them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError, RayTaskError

from rhoselect.errors import ConfigError, RhoError, RunError, WaitError
from rhoselect.queue.base import HELPERS
from rhoselect.queue.redis import RedisQueue
from rhoselect.runtime.ray.fleet import Fleet
from rhoselect.runtime.run import Worker, unscalable
from rhoselect.snapshots import SnapshotReader
from rhoselect.status import Status
from rhoselect.trainer.checkpoint import newest_progress
from rhoselect.trainer.control import REQUEST_S, Action, StopPoint
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.types import QueueStats, TopK

REPLY_S = 5.0  # for an answer to come back, beyond the time it may take to find


@dataclass(frozen=True)
class RemoteControl:
    """The control of a trainer in another process."""

    trainer: Any

    def request(self, action: Action, timeout_s: float = REQUEST_S) -> StopPoint:
        """See `TrainerControl.request`."""
        point: StopPoint = _answer(self.trainer.request.remote(action, timeout_s), timeout_s)
        return point


class TrainerRun:
    """What is known of a run from its trainer's actor."""

    def __init__(self, folder: RunFolder, trainer: Any) -> None:
        self.folder, self._trainer = folder, trainer
        self.control = RemoteControl(trainer)
        self.latest = Status(**vars(newest_progress(folder.path)))

    def refresh(self) -> None:
        """Update ``latest`` if the trainer answers. Raises Ray's errors once it has died."""
        # No answer: the trainer is starting, or is busy, or a connection broke.
        with suppress(GetTimeoutError, ActorUnavailableError):
            now: Status = ray.get(self._trainer.status.remote(), timeout=REPLY_S)
            if now.inexact and not self.latest.inexact:
                logging.warning("%s: is not exact: %s", self.folder.path, now.inexact)
            self.latest = now

    def status(self) -> Status:
        """See `Run.status`; the latest one if the trainer does not answer or has died."""
        # A trainer that died ends the run in a moment, and the run's end says how to continue.
        with suppress(WaitError, RunError):
            self.latest = _answer(self._trainer.status.remote(), 0.0)
        return self.latest


class RanksRun(TrainerRun):
    """A ``runtime.run.Run`` of ranks that all score and train."""

    stores: None = None

    def workers(self) -> list[Worker]:
        """There are no scorers."""
        return []

    def scale(self, workers: int) -> None:
        """Raises ConfigError."""
        raise unscalable(workers)

    def stats(self) -> QueueStats:
        """See `Run.stats`."""
        stats: QueueStats = _answer(self._trainer.stats.remote(), 0.0)
        return stats

    def peek(self, k: int) -> TopK | None:
        """See `Run.peek`."""
        found: TopK | None = _answer(self._trainer.peek.remote(k), 0.0)
        return found


class ClusterRun(TrainerRun):
    """A ``runtime.run.Run`` of a trainer actor, a fleet of scorers and a queue server."""

    def __init__(
        self,
        folder: RunFolder,
        trainer: Any,
        fleet: Fleet,
        queue: RedisQueue,
        stores: Callable[[], SnapshotReader],
    ) -> None:
        super().__init__(folder, trainer)
        self._fleet, self._queue, self.stores = fleet, queue, stores

    def close(self) -> None:
        """Close the connection to the queue."""
        self._queue.disconnect()

    def workers(self) -> list[Worker]:
        """See `Run.workers`."""
        return self._fleet.workers()

    def scale(self, workers: int) -> None:
        """See `Run.scale`."""
        if not 0 <= workers <= HELPERS:
            raise ConfigError(f"workers: got {workers}, allowed 0 to {HELPERS}")
        try:
            self._fleet.scale(workers)
        finally:
            _answer(self._trainer.share.remote(workers), REQUEST_S)

    def stats(self) -> QueueStats:
        """See `Run.stats`."""
        return self._queue.stats()

    def peek(self, k: int) -> TopK | None:
        """See `Run.peek`."""
        return self._queue.peek(k)


def _answer(promise: Any, timeout_s: float) -> Any:
    """The trainer's answer. Raises its RhoError, WaitError if it does not answer, RunError if it
    has died."""
    try:
        return ray.get(promise, timeout=timeout_s + REPLY_S)
    except GetTimeoutError:
        raise WaitError(f"the trainer's process does not answer for {timeout_s:g} s") from None
    except RayTaskError as error:
        if isinstance(error.cause, RhoError):
            raise error.cause from None
        raise
    except RayError as error:
        raise RunError(f"the trainer is gone ({str(error).splitlines()[0]})") from None
