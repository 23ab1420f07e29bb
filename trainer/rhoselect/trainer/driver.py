"""The driver of a run: the process of ``rhoctl`` that started it. It holds a lock in the run folder
while it lives, so that a run is never taken for one that has ended.

The kernel drops the lock when the process ends, however it ends. Some file systems have no locks:
there nothing is held, and the generations of the folder alone keep an older trainer out.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from rhoselect.errors import RunFolderError

LOCK = "lock"
TRY_S = 1.0  # a look takes the lock for a moment
PAUSE_S = 0.02


@dataclass(frozen=True)
class Driver:
    """The process that drives a run, or drove it last. ``lives`` is None where that cannot be known
    from here: it runs on another machine, or its file system has no locks."""

    pid: int
    host: str
    lives: bool | None

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine."""
        return self.host == socket.gethostname()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@contextmanager
def driving(path: Path) -> Iterator[None]:
    """Be the driver of the run in ``path`` for the block. Raises RunFolderError if it has one."""
    with (path / LOCK).open("a+", encoding="utf-8") as file:
        _hold(file, path)
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}\n")
        file.flush()
        yield


def driver_of(path: Path) -> Driver | None:
    """The driver of the run in ``path``; None if it never had one."""
    try:
        with (path / LOCK).open(encoding="utf-8") as file:
            pid, _, host = file.read().strip().partition(" ")
            lives = _is_held(file)
    except FileNotFoundError:
        return None
    except OSError:  # not ours to read
        return Driver(0, "an unknown machine", None)
    if not pid.isdigit():  # it is about to write its name
        return Driver(0, "an unknown machine", lives)
    found = Driver(int(pid), host, lives)
    if lives:
        return found
    if not found.is_here:  # a network file system may hide the locks of other machines
        return replace(found, lives=None)
    return found if lives is False else replace(found, lives=_exists(found.pid) and None)


def check_ended(path: Path) -> None:
    """Raise RunFolderError if the run in ``path`` is known to live."""
    driver = driver_of(path)
    if driver is not None and driver.lives:
        raise _lives(path, driver)


def _hold(file: TextIO, path: Path) -> None:
    deadline = time.monotonic() + TRY_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise _lives(path, driver_of(path)) from None
            time.sleep(PAUSE_S)
        except OSError:  # no locks here
            return


def _is_held(file: TextIO) -> bool | None:
    """Whether another process holds the lock; None without locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _lives(path: Path, driver: Driver | None) -> RunFolderError:
    return RunFolderError(
        f"run folder {path}: {driver or 'another process'} runs it; allowed a run that has ended;"
        f" look at it with 'rhoctl status {path}', or end that process first"
    )
