"""Signals that end a command in order: SIGINT (Ctrl-C), SIGTERM (a preemption notice) and SIGHUP (a
terminal that closes). A run stops with a checkpoint. Under nohup SIGHUP is ignored."""

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

Handler = Callable[[int, FrameType | None], object]


@contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """Have ``handler`` called for the signals of this module until the block ends.

    Outside the main thread, which alone can handle signals, nothing happens. When a terminal
    closes, what is written to it from then on goes nowhere, as each write would be an error.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminals = [number for number in (0, 1, 2) if os.isatty(number)]  # after a hang-up none is

    def hang_up(number: int, frame: FrameType | None) -> None:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for terminal in terminals:
            os.dup2(nowhere, terminal)
        os.close(nowhere)
        handler(number, frame)

    handlers: dict[int, Handler] = {signal.SIGINT: handler, signal.SIGTERM: handler}
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        handlers[signal.SIGHUP] = hang_up
    before = {number: signal.signal(number, each) for number, each in handlers.items()}
    try:
        yield
    finally:
        for number, each in before.items():
            signal.signal(number, each)


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
        """Handle the first signal, or the second one. A closing terminal and its shell may both
        send SIGHUP, beside a SIGTERM, so it is never the second one."""
        if self.signal is not None:
            if number == signal.SIGHUP:
                return
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
    with handled(stopper.handle):
        try:
            yield stopper.stop_at_signal
        except RunStopped as stopped:
            if stopper.signal is not None:
                stopped.exit_code = 128 + stopper.signal
            raise
