"""A real S3-compatible server on loopback, and a proxy before it that can be slow or away."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.fs

from servers import free_port, missing

BUCKET = "points"


class Server:
    """moto's server in a process of its own. It keeps nothing when it is killed."""

    def __init__(self, port: int | None = None) -> None:
        if importlib.util.find_spec("moto") is None:
            missing("moto")
        self.port = port or free_port()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < deadline, "no S3 server"
        self.files = pyarrow.fs.S3FileSystem(
            endpoint_override=f"127.0.0.1:{self.port}", scheme="http", allow_bucket_creation=True
        )
        self.files.create_dir(BUCKET)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 0.1).close()
        except OSError:
            return False
        return True

    def upload(self, folder: Path, name: str) -> None:
        """Put the files of a data set under ``name``."""
        for path in folder.iterdir():
            with self.files.open_output_stream(f"{BUCKET}/{name}/{path.name}") as file:
                file.write(path.read_bytes())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Proxy:
    """Passes connections on to ``port``, counting the bytes that come back.

    Once ``bytes_left`` have passed it cuts or stalls every connection (``then``) and sets
    ``reached``, until ``open`` is called. ``pause_s`` is waited before each 64 KiB.
    """

    def __init__(self, port: int) -> None:
        self.target, self.passed, self.pause_s = port, 0, 0.0
        self.bytes_left, self.then = 1 << 62, "cut"
        self.reached, self._opened = threading.Event(), threading.Event()
        self._opened.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def stop_after(self, count: int, then: str) -> None:
        self.reached.clear()
        self._opened.clear()
        self.bytes_left, self.then = count, then

    def open(self) -> None:
        self.bytes_left = 1 << 62
        self._opened.set()

    def close(self) -> None:
        self.open()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            upstream = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            client.close()
            return
        threading.Thread(target=self._pump, args=(client, upstream, False), daemon=True).start()
        self._pump(upstream, client, True)

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        try:
            while piece := source.recv(1 << 16):
                if counted and not self._passes(len(piece)):
                    break
                sink.sendall(piece)
        except OSError:
            pass  # the other side went away
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _passes(self, count: int) -> bool:
        """Whether a piece may go on; waits while slow or stalled."""
        if self.pause_s:
            time.sleep(self.pause_s)
        with self._lock:
            self.bytes_left -= count
            left = self.bytes_left
        if left < 0:
            self.reached.set()
            if self.then == "cut":
                return False
            self._opened.wait()
        self.passed += count
        return True


def credentials() -> dict[str, str]:
    """An environment with what any client of S3 looks for there."""
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    return dict.fromkeys(keys, "test") | {"AWS_EC2_METADATA_DISABLED": "true"}
