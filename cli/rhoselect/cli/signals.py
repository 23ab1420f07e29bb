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


class Stopper:
    """Stops a run at the first signal, and ends this process at the second one."""

    def __init__(self, print_line: Callable[[str], None]) -> None:
        self._print_line = print_line
        self._run: Run | None = None
        self.signal: int | None = None
        """The first signal that came."""

    def stop_at_signal(self, run: Run) -> None:
        """Stop ``run`` at the first signal, or now if it came before there was a run."""
        self._run = run
        if self.signal is not None:
            threading.Thread(target=self._stop, daemon=True).start()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of ``NUMBERS``."""
        if self.signal is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal = number
        # In a thread: the interrupted main thread may hold the lock that a stop needs.
        threading.Thread(target=self._stop, daemon=True).start()

    def _stop(self) -> None:
        assert self.signal is not None
        name = signal.Signals(self.signal).name
        self._print_line(
            f"{name}: stopping after this step; send it again to end this process at once"
        )
        if self._run is not None:
            with suppress(RhoError):  # the run has ended, or a second signal ends this process
                self._run.control.request("stop", REQUEST_S)


@contextmanager
def stopping(print_line: Callable[[str], None]) -> Iterator[Callable[[Run], None]]:
    """Stop a run at the first signal within the block; end this process at the second one.

    Call the yielded function with the run once it exists; a signal that came before stops it then.
    The ``RunStopped`` that leaves the block has the exit code 128 + the signal's number. Outside
    the main thread, which alone can handle signals, nothing happens.
    """
    stopper = Stopper(print_line)
    if threading.current_thread() is not threading.main_thread():
        yield stopper.stop_at_signal
        return
    before = {number: signal.signal(number, stopper.handle) for number in NUMBERS}
    try:
        yield stopper.stop_at_signal
    except RunStopped as stopped:
        if stopper.signal is not None:
            stopped.exit_code = 128 + stopper.signal
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
