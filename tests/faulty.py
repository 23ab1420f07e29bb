"""A run of ``rhoctl`` in this process, and what kills its actors, in a thread."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support import DEADLINE_S, Result, rhoctl


class Run:
    """``rhoctl`` here, and meanwhile a fault in a thread; the run's folder is ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._over = threading.Event()

    def with_fault(self, fault: Callable[[], None], *arguments: str | Path | int) -> Result:
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(fault)
            result = rhoctl(*map(str, arguments), "--run-dir", self.path)
            self._over.set()
            done.result(timeout=DEADLINE_S)
        return result

    def reach(self, step: int) -> None:
        """Look again and again until there is a checkpoint of ``step`` or later."""
        reach(self.path, step, self._over.is_set)

    def kill(self, actor: str, sign: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to an actor's newest process, once there is one."""
        look(lambda: bool(starts(self.path, actor)), self._over.is_set)
        os.kill(starts(self.path, actor)[-1], sign)


def reach(run: Path, step: int, over: Callable[[], bool]) -> None:
    look(lambda: newest_step(run) >= step, over)


def look(happened: Callable[[], bool], over: Callable[[], bool]) -> None:
    """Look again and again until something happened in a run that must not end before."""
    deadline = time.monotonic() + DEADLINE_S
    while not happened():
        assert not over(), "ended early"
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.01)


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*"))


def newest_step(run: Path) -> int:
    return max((int(p.stem.removeprefix("step-")) for p in checkpoints(run)), default=0)


def starts(run: Path, actor: str) -> list[int]:
    """Process numbers that an actor has had, from its log."""
    log = run / "logs" / f"{actor}.log"
    text = log.read_text() if log.exists() else ""
    return [int(n) for n in re.findall(r"process (\d+) starts", text)]
