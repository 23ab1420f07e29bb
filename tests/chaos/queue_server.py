"""A queue server of our own that can be frozen, emptied, or killed and started again."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from rhoselect.queue.redis import ping
from rhoselect.runtime.queue_server import find_server

START_S = 20.0


class QueueServer:
    """A real server on a port of 127.0.0.1 for the ``with`` block; ``url`` stays the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self._port}"
        self._peak_bytes = 0

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Kill it and start an empty one."""
        self._peak_bytes = self.peak_bytes
        self._process.kill()
        self._process.wait()
        self._start()

    def freeze(self, seconds: float) -> None:
        """Let it do nothing for a while."""
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._process.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """Take all that it holds."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def peak_bytes(self) -> int:
        """The most that it has ever held."""
        with redis.Redis.from_url(self.url) as client:
            return max(self._peak_bytes, int(client.info("memory")["used_memory_peak"]))

    def _start(self) -> None:
        command = [
            *(find_server(), "--bind", "127.0.0.1", "--port", str(self._port)),
            *("--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"),
            *("--dir", str(self._folder)),
        ]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        deadline = time.monotonic() + START_S
        while not ping(self.url):
            assert self._process.poll() is None, (self._folder / "server.log").read_text()
            assert time.monotonic() < deadline, "the queue server does not answer"
