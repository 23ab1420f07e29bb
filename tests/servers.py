"""Real queue servers for tests. One that is not installed skips on a laptop and fails under CI."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

import pytest

from rhoselect.queue.redis import ping

PASSWORD = "s3cret/with:@#signs"


def redis_server() -> str:
    """The ``redis-server`` binary: $REDIS_SERVER (set by `make test`), else on PATH."""
    binary = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
    return binary or missing("redis-server")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def missing(what: str) -> NoReturn:
    """A laptop may lack a server and skip its tests; CI must have it, and fails."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is not installed, and CI is set")
    pytest.skip(f"{what} is not installed")


@contextmanager
def tcp_server(folder: Path, port: int, password: str = PASSWORD) -> Iterator[str]:
    """A ``redis-server`` on 127.0.0.1; yields its URL."""
    command = [
        redis_server(),
        "--bind",
        "127.0.0.1",
        "--port",
        str(port),
        "--requirepass",
        password,
    ]
    command += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
    url = f"redis://:{quote(password, safe='')}@127.0.0.1:{port}"
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20.0
        while not ping(url):
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline, "redis-server does not answer"
        yield url
    finally:
        process.terminate()
        process.wait(10.0)
