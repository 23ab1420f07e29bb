"""Waking any number of readers in other processes, at once and without polling.

A reader sleeps on a Unix datagram socket of its own in a folder that all share; ringing sends a
byte to each. Needs no list of readers, and one that was killed is found out by the next ring.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from pathlib import Path


class Bell:
    """One end: ``ring`` and ``wait`` may be used by different processes or by the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path: Path | None = None  # of the socket, once there is one
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def ring(self) -> None:
        """Wake all who wait in the folder."""
        with os.scandir(self._folder) as entries:
            paths = [entry.path for entry in entries if entry.name.endswith(".sock")]
        self._socket.settimeout(0)
        for path in paths:
            try:
                self._socket.sendto(b"\0", path)
            except ConnectionRefusedError:
                Path(path).unlink(missing_ok=True)  # its reader is gone
            except (BlockingIOError, FileNotFoundError):
                continue  # it has wake-ups enough, or has just left

    def wait(self, timeout_s: float) -> None:
        """Sleep until the next ring, or not that long: whoever wakes looks what there is.

        The first call returns at once, for there may have been rings before it.
        """
        if self._path is None:
            path = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}.sock"
            try:
                self._socket.bind(str(path))
                self._path = path
            except FileNotFoundError:  # the folder is not there yet, or no more
                time.sleep(timeout_s)
            return
        self._socket.settimeout(timeout_s)
        with contextlib.suppress(TimeoutError):
            self._socket.recv(1)

    def close(self) -> None:
        """Leave."""
        self._socket.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
