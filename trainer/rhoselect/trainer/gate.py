"""The gate between two steps, where others can have a running trainer pause, save or stop.

The trainer comes by after every step (``arrive``) and waits there only while it is paused; whoever
asks for something, in another thread, waits until the trainer has come by and done it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from rhoselect.errors import RunError, WaitError

ASK_S = 60.0
"""How long whoever asks a trainer for something waits for the end of its step."""
WAKE_S = 1.0


@dataclass(frozen=True)
class Stand:
    """Where a trainer stood when it did what was asked: steps completed, the checkpoint made."""

    step: int
    checkpoint: Path | None


@dataclass(frozen=True)
class _Ask:
    saves: bool
    answer: Future[Stand]


class Gate:
    """Thread-safe. Asking raises WaitError if the trainer has not come by within ``timeout_s``
    (it does what was asked whenever it comes) and RunError once the run has ended."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._paused = self._stopping = self._closed = False
        self._asks: list[_Ask] = []

    @property
    def paused(self) -> bool:
        """Whether the trainer waits at its next arrival."""
        return self._paused

    def pause(self, timeout_s: float) -> Stand:
        """Have the trainer wait from the end of its present step on."""
        return self._ask(False, timeout_s, pausing=True)

    def resume(self) -> None:
        """Let a paused trainer go on."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def checkpoint(self, timeout_s: float) -> Stand:
        """Have a checkpoint made at the end of the present step."""
        return self._ask(True, timeout_s)

    def stop(self, timeout_s: float) -> Stand:
        """Have the run end after its present step, with a checkpoint."""
        return self._ask(True, timeout_s, stopping=True)

    def arrive(
        self, step: int, save: Callable[[], Path], check_fence: Callable[[], object]
    ) -> bool:
        """The trainer, after ``step`` steps: ``save`` makes a checkpoint, ``check_fence`` raises
        FencedError if another has taken its place. Whether it is to stop."""
        with self._changed:
            while True:
                self._answer(step, save)
                if self._stopping or not self._paused:
                    return self._stopping
                # Not without end: a signal that comes just before a wait is handled after it.
                self._changed.wait(WAKE_S)
                check_fence()

    def close(self) -> None:
        """The trainer comes by no more."""
        with self._changed:
            self._closed = True
            for ask in self._asks:
                ask.answer.set_exception(_ended())
            self._asks.clear()

    def _ask(
        self, saves: bool, timeout_s: float, pausing: bool = False, stopping: bool = False
    ) -> Stand:
        ask = _Ask(saves, Future())
        with self._changed:  # the flags and the ask at once: the trainer may come by at any time
            if self._closed:
                raise _ended()
            self._paused, self._stopping = self._paused or pausing, self._stopping or stopping
            self._asks.append(ask)
            self._changed.notify_all()
        try:
            return ask.answer.result(timeout_s)
        except TimeoutError:
            raise WaitError(
                f"the trainer is still within a step after {timeout_s:g} s; it does what was asked"
                " at the step's end"
            ) from None

    def _answer(self, step: int, save: Callable[[], Path]) -> None:
        saves = self._stopping or any(ask.saves for ask in self._asks)
        stand = Stand(step, save() if saves else None)
        for ask in self._asks:
            ask.answer.set_result(stand)
        self._asks.clear()


def _ended() -> RunError:
    return RunError("the run has ended")
