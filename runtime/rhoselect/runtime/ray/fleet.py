"""The scorers of a run on Ray: starts and ends them, and watches their state.

Ray restarts a scorer that dies, in its slot. Once a second the fleet asks each scorer for its state
and tells it the number of scorers, from which it computes its lane of the queue. A scorer that
learns of a new number late costs time, never correctness. A scorer that comes to a run that goes
on, or that Ray starts again in one on another machine, but gives other bits, is refused: its slot
says why, and the run goes on without it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from rhoselect.errors import HardwareError, RhoError, RunError
from rhoselect.metrics import WorkerState
from rhoselect.runtime.run import Worker
from rhoselect.trainer.hardware import begun
from rhoselect.trainer.runfolder import RunFolder

LOOK_S = 1.0
SILENT_S = 3 * LOOK_S
STOP_S = 5.0  # for scorers to end by themselves, because Ray reports killed ones as failures


@dataclass
class _Scorer:
    """``run`` and ``asked`` are Ray's references to the results of the actor's ``run`` and of its
    last ``look``. ``late``: it was added to, or has scored for, a run that works without it.
    ``refused``: why it may not score, empty if it may."""

    actor: Any
    run: Any
    asked: Any
    late: bool
    refused: str = ""
    seen: float = -math.inf
    pid: int = 0
    restarts: int = 0
    scored_points: int = 0

    def note(self, pid: int, scored_points: int) -> None:
        self.restarts += self.pid not in (0, pid)
        self.late |= scored_points > 0
        self.pid, self.scored_points, self.seen = pid, scored_points, time.monotonic()


class Fleet:
    """Thread-safe. ``start(slot, workers)`` makes the actor of one of ``workers`` scorers.

    ``forget(slot)`` is called for each slot that was given up. Messages name ``folder`` and
    ``how``, the command that continues the run.
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
        self._goes_on = False

    def scale(self, workers: int) -> None:
        """Start or end scorers until there are ``workers``. The highest slots end first, after
        their current ticket."""
        with self._lock:
            gone, self._scorers = self._scorers[workers:], self._scorers[:workers]
            for slot in range(len(self._scorers), workers):
                actor = self._start(slot, workers)
                run, asked = actor.run.remote(), actor.look.remote(workers)
                self._scorers.append(_Scorer(actor, run, asked, late=self._goes_on))
            self._goes_on = True
            self._looked = -math.inf  # tell all scorers the new number
        # Without the lock: this takes seconds, and other threads use the fleet meanwhile.
        self._end(gone)
        for slot in range(workers, workers + len(gone)):
            self._forget(slot)

    def runs(self) -> list[Any]:
        """Ray's references to the scorers' ``run`` calls, to wait on and to pass to ``check``."""
        with self._lock:
            return [scorer.run for scorer in self._scorers if not scorer.refused]

    def check(self, ended: Sequence[Any]) -> None:
        """Raise the error of a scorer that failed. ``ended`` are those of ``runs`` that have ended.

        Scorers that were given up meanwhile are ignored.
        """
        with self._lock:
            for slot, scorer in enumerate(self._scorers):
                if scorer.refused or scorer.run not in ended:
                    continue
                try:
                    ray.get(scorer.run)
                except RayError as error:
                    reason = failure(error, f"scorer {slot}", self._folder, self._how)
                    late = scorer.late or scorer.restarts > 0 or begun(self._folder)
                    if not (late and isinstance(reason, HardwareError)):
                        raise reason from None
                    logging.warning("refused: %s", reason)
                    scorer.refused = str(reason)
                    ray.kill(scorer.actor)

    def look(self) -> None:
        """Once a second, read the scorers' answers and ask them again. Call it more often."""
        with self._lock:
            if time.monotonic() < self._looked + LOOK_S or not self._scorers:
                return
            self._looked = time.monotonic()
            asked = [scorer.asked for scorer in self._scorers]
            answered, _ = ray.wait(asked, num_returns=len(asked), timeout=0)
            for scorer in self._scorers:
                if scorer.refused or scorer.asked not in answered:
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
        if scorer.refused:
            state = "refused"
        elif scorer.pid:
            state = "running" if time.monotonic() - scorer.seen < SILENT_S else "silent"
        points, restarts = scorer.scored_points, scorer.restarts
        return Worker(slot, state, scorer.pid, restarts, points, scorer.refused)

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
    """The error to show to a user for an actor's error; ``how`` is the command to continue with."""
    if isinstance(error, RayTaskError):
        if isinstance(error.cause, RhoError):
            return error.cause
        return RunError(f"an actor failed: {error.cause!r}; see {folder.path}/logs")
    reason = str(error).splitlines()[0]
    return RunError(f"{who} died ({reason}); continue with: {how}")
