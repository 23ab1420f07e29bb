"""The scorers of a run on Ray: how many there are, what becomes of them, more or fewer of them.

A scorer that dies is started again by Ray, in its slot. The fleet asks each one once a second how
it is, and tells it by the way among how many it is: lanes of the queue are shares, so a scorer that
learns of another number late costs time, never correctness.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from rhoselect.errors import RhoError, RunError
from rhoselect.metrics import WorkerState
from rhoselect.runtime.run import Worker
from rhoselect.trainer.runfolder import RunFolder

LOOK_S = 1.0
SILENT_S = 3 * LOOK_S
STOP_S = 5.0  # for scorers to end by themselves: Ray reports killed ones as failures


@dataclass
class _Scorer:
    """``run`` is Ray's promise of its end, ``asked`` of its answer to the last look."""

    actor: Any
    run: Any
    asked: Any
    seen: float = -math.inf
    pid: int = 0
    restarts: int = 0
    scored_points: int = 0

    def note(self, pid: int, scored_points: int) -> None:
        self.restarts += self.pid not in (0, pid)
        self.pid, self.scored_points, self.seen = pid, scored_points, time.monotonic()


class Fleet:
    """Thread-safe. ``start(slot, workers)`` makes a scorer's actor, one of so many.

    ``forget(slot)`` is told of each slot that was given up; ``folder`` and ``how`` a run goes on
    are for messages.
    """

    def __init__(
        self,
        start: Callable[[int, int], Any],
        forget: Callable[[int], object],
        folder: RunFolder,
        how: str,
    ) -> None:
        self._start, self._forget = start, forget
        self._folder, self._how = folder, how
        self._lock = threading.Lock()
        self._scorers: list[_Scorer] = []
        self._looked = -math.inf

    def scale(self, workers: int) -> None:
        """Have ``workers`` scorers: the highest slots go first, and finish what they are at."""
        with self._lock:
            gone, self._scorers = self._scorers[workers:], self._scorers[:workers]
            for slot in range(len(self._scorers), workers):
                actor = self._start(slot, workers)
                self._scorers.append(_Scorer(actor, actor.run.remote(), actor.look.remote(workers)))
            self._looked = -math.inf  # all are to be told
        # Takes seconds, in which others look at the fleet.
        self._end(gone)
        for slot in range(workers, workers + len(gone)):
            self._forget(slot)

    def runs(self) -> list[Any]:
        """What to wait on beside the trainer, for ``check``."""
        with self._lock:
            return [scorer.run for scorer in self._scorers]

    def check(self, ended: Sequence[Any]) -> None:
        """Raise what a scorer failed with; ``ended`` of ``runs``.

        Those given up meanwhile are none of anybody's business.
        """
        runs = self.runs()
        for run in ended:
            if run not in runs:
                continue
            try:
                ray.get(run)
            except RayError as error:
                who = f"scorer {runs.index(run)}"
                raise failure(error, who, self._folder, self._how) from None

    def look(self) -> None:
        """Take note of answers and ask again, once a second: to be called more often."""
        with self._lock:
            if time.monotonic() < self._looked + LOOK_S or not self._scorers:
                return
            self._looked = time.monotonic()
            asked = [scorer.asked for scorer in self._scorers]
            answered, _ = ray.wait(asked, num_returns=len(asked), timeout=0)
            for scorer in self._scorers:
                if scorer.asked not in answered:
                    continue  # one question at a time
                with suppress(RayError):  # ``check`` tells
                    scorer.note(*ray.get(scorer.asked))
                scorer.asked = scorer.actor.look.remote(len(self._scorers))

    def workers(self) -> list[Worker]:
        """The scorers by slot, as last seen."""
        with self._lock:
            return [self._worker(slot, scorer) for slot, scorer in enumerate(self._scorers)]

    def actors(self) -> dict[str, Any]:
        """The scorers' handles by name."""
        with self._lock:
            return {f"scorer {slot}": scorer.actor for slot, scorer in enumerate(self._scorers)}

    def states(self) -> tuple[dict[int, WorkerState], dict[int, int]]:
        """States and restarts by slot, as the metrics have them."""
        workers = self.workers()
        states = {worker.slot: worker.state for worker in workers}
        return states, {worker.slot: worker.restarts for worker in workers}

    def close(self) -> None:
        """End all scorers."""
        with self._lock:
            self._end(self._scorers)
            self._scorers = []

    def _worker(self, slot: int, scorer: _Scorer) -> Worker:
        state: WorkerState = "starting"
        if scorer.pid:
            state = "running" if time.monotonic() - scorer.seen < SILENT_S else "silent"
        return Worker(slot, state, scorer.pid, scorer.restarts, scorer.scored_points)

    @staticmethod
    def _end(scorers: Sequence[_Scorer]) -> None:
        if not scorers:
            return
        for scorer in scorers:
            scorer.actor.stop.remote()
        ray.wait([s.run for s in scorers], num_returns=len(scorers), timeout=STOP_S)
        for scorer in scorers:
            ray.kill(scorer.actor)


def failure(error: RayError, who: str, folder: RunFolder, how: str) -> RhoError:
    """What an actor's error is to a user, who may go on with the command ``how``."""
    if isinstance(error, RayTaskError):
        if isinstance(error.cause, RhoError):
            return error.cause
        return RunError(f"an actor failed: {error.cause!r}; see {folder.path}/logs")
    reason = str(error).splitlines()[0]
    return RunError(f"{who} died ({reason}); continue with: {how}")
