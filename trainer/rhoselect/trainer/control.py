"""Requests to a running trainer: pause, resume, checkpoint, stop.

The trainer polls after every step and handles the requests; while it is paused it waits there.
Other threads make requests; a request returns when the trainer has handled it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rhoselect.errors import RunError, WaitError

if TYPE_CHECKING:  # torch comes with it, for which a command that asks a run need not wait
    from rhoselect.selector import SelectedBatch

REQUEST_S = 60.0
"""How long a request waits by default for the end of the trainer's step."""
WAKE_S = 1.0

Action = Literal["pause", "resume", "checkpoint", "stop"]
"""pause: wait from the end of this step on. resume: go on. checkpoint: save at the end of this
step. stop: end the run after this step, with a checkpoint."""


@dataclass(frozen=True)
class StopPoint:
    """The steps completed when the trainer handled a request, and the checkpoint it saved."""

    step: int
    checkpoint: Path | None


@dataclass(frozen=True)
class _Request:
    saves: bool
    answer: Future[StopPoint]


class TrainerControl:
    """Thread-safe. A trainer calls ``poll`` and at its end ``close``; others call ``request``."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._paused = self._stopping = self._closed = False
        self._requests: list[_Request] = []
        self._step = 0

    @property
    def paused(self) -> bool:
        """Whether the trainer waits at its next poll."""
        return self._paused

    def request(self, action: Action, timeout_s: float = REQUEST_S) -> StopPoint:
        """Have the trainer do ``action``, and wait until it has. "resume" does not wait.

        Raises WaitError if the trainer does not poll within ``timeout_s`` (it does what was
        requested when it polls), RunError once the run has ended, and what a checkpoint raised.
        """
        request = _Request(action in ("checkpoint", "stop"), Future())
        with self._changed:  # the flags and the request at once: the trainer may poll at any time
            if action == "resume":
                self._paused = False
                self._changed.notify_all()
                return StopPoint(self._step, None)
            if self._closed:
                raise _ended()
            self._paused |= action == "pause"
            self._stopping |= action == "stop"
            self._requests.append(request)
            self._changed.notify_all()
        try:
            return request.answer.result(timeout_s)
        except TimeoutError:
            raise WaitError(
                f"the trainer is still within a step after {timeout_s:g} s; it handles the request"
                " at the end of the step"
            ) from None

    def poll(self, step: int, save: Callable[[], Path], check_fence: Callable[[], object]) -> bool:
        """The trainer, after ``step`` steps: ``save`` makes a checkpoint, ``check_fence`` raises
        FencedError if another trainer took over. Returns whether the run is to stop here."""
        self._step = step
        while True:
            with self._changed:
                requests, self._requests = self._requests, []
            self._answer(requests, step, save)  # without the lock: a checkpoint takes a while
            with self._changed:
                if self._requests:
                    continue
                if self._stopping or not self._paused:
                    return self._stopping
                # A bounded wait: Python handles a signal that comes just before it only after it.
                self._changed.wait(WAKE_S)
            check_fence()

    def begins(self, step: int) -> None:
        """The trainer goes on after ``step`` steps, and has loaded their checkpoint."""

    def chosen(self, batch: SelectedBatch) -> None:
        """The trainer, before it trains on a batch. Ranks that only train learn of it here."""

    def check(self) -> None:
        """The trainer, often where a step or an evaluation takes long. Raises LostRankError once it
        has lost a rank."""

    def close(self) -> None:
        """End: the trainer does not poll again. Open requests raise RunError."""
        with self._changed:
            self._closed = True
            requests, self._requests = self._requests, []
        for request in requests:
            request.answer.set_exception(_ended())

    def _answer(self, requests: list[_Request], step: int, save: Callable[[], Path]) -> None:
        try:
            saved = save() if any(request.saves for request in requests) else None
        except BaseException as error:
            for request in requests:
                request.answer.set_exception(error)
            raise
        for request in requests:
            request.answer.set_result(StopPoint(step, saved))


def _ended() -> RunError:
    return RunError("the run has ended")
