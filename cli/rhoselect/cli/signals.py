"""SIGINT (Ctrl-C) and SIGTERM (a preemption notice) stop a run in order, with a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from rhoselect.errors import RhoError, RunStopped
from rhoselect.runtime.run import Run
from rhoselect.trainer.control import REQUEST_S

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping(say: Callable[[str], None]) -> Iterator[Callable[[Run], None]]:
    """Stop a run at the first signal within the block; end this process at the second one.

    Call the yielded function with the run once it exists; a signal that came before stops it then.
    The ``RunStopped`` that leaves the block has the exit code 128 + the signal's number. Outside
    the main thread, which alone can handle signals, nothing happens.
    """
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
        # In a thread: the interrupted main thread may hold the lock that a stop needs.
        threading.Thread(target=stop, daemon=True).start()

    def stop() -> None:
        name = signal.Signals(asked[0]).name
        say(f"{name}: stopping after this step; send it again to end this process at once")
        for run in runs:
            with suppress(RhoError):  # the run has ended, or a second signal ends this process
                run.control.request("stop", REQUEST_S)

    def given(run: Run) -> None:
        runs.append(run)
        if asked:  # a signal came before there was a run
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
