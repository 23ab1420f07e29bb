"""SIGINT (Ctrl-C) and SIGTERM (a preemption notice) end a run in order, with a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from rhoselect.errors import RhoError, RunStopped
from rhoselect.runtime.run import Run
from rhoselect.trainer.gate import ASK_S

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping(say: Callable[[str], None]) -> Iterator[Callable[[Run], None]]:
    """Within the block, the first signal stops the run that the yielded function was, or will be,
    given; a second one ends this process at once. ``RunStopped`` then leaves the block with the
    exit code of the signal, 128 + its number. Only the main thread has signals."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda run: None
        return
    asked: list[int] = []
    runs: list[Run] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if asked:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        asked.append(number)
        # Not here: this may have interrupted whoever holds the lock that a stop needs.
        threading.Thread(target=stop, daemon=True).start()

    def stop() -> None:
        say(f"{signal.Signals(asked[0]).name}: stopping after this step; once more: at once")
        for run in runs:
            with suppress(RhoError):  # it ends by itself, or by the second signal
                run.gate.stop(ASK_S)

    def given(run: Run) -> None:
        runs.append(run)
        if asked:  # while there was no run yet
            threading.Thread(target=stop, daemon=True).start()

    before = {number: signal.signal(number, handle) for number in NUMBERS}
    try:
        yield given
    except RunStopped as stopped:
        if asked:
            stopped.exit_code = 128 + asked[0]
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
