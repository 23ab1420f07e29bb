"""Wake-ups for any number of readers in other processes, at once and without polling.

Each reader waits on a Unix datagram socket of its own in a shared folder; ``notify`` sends a byte
to every socket there. No list of readers is kept. The next ``notify`` finds the socket of a reader
that was killed, and removes it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from pathlib import Path


class Notifier:
    """One end. The same process or different processes may call ``notify`` and ``wait``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path: Path | None = None  # of the socket, once it is bound
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def notify(self) -> None:
        """Wake every reader that waits in the folder."""
        with os.scandir(self._folder) as entries:
            paths = [entry.path for entry in entries if entry.name.endswith(".sock")]
        self._socket.settimeout(0)
        for path in paths:
            try:
                self._socket.sendto(b"\0", path)
            except ConnectionRefusedError:
                Path(path).unlink(missing_ok=True)  # its reader has ended
            except (BlockingIOError, FileNotFoundError):
                continue  # its buffer is full of wake-ups, or its reader has just closed it

    def wait(self, timeout_s: float) -> None:
        """Sleep until the next ``notify``, at most ``timeout_s``. The caller then checks its
        condition again.

        The first call returns at once, because earlier notifications did not reach this socket.
        """
        if self._path is None:
            path = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}.sock"
            try:
                self._socket.bind(str(path))
                self._path = path
            except FileNotFoundError:  # the folder does not exist yet, or was removed
                time.sleep(timeout_s)
            return
        self._socket.settimeout(timeout_s)
        with contextlib.suppress(TimeoutError):
            self._socket.recv(1)

    def close(self) -> None:
        """Close this end and remove its socket from the folder."""
        self._socket.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
