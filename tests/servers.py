"""Real queue servers for tests. One that is not installed skips on a laptop and fails under CI."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

import pytest
import redis

from rhoselect.queue.redis import ping

PASSWORD = "s3cret/with:@#signs"
SLOTS = 16384  # of a cluster


def redis_server() -> str:
    """The ``redis-server`` binary: $REDIS_SERVER (set by `make test`), else on PATH."""
    binary = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
    return binary or missing("redis-server")


def free_port() -> int:
    """A TCP port of 127.0.0.1 without a listener just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def missing(what: str) -> NoReturn:
    """A laptop may lack a server and skip its tests; CI must have it, and fails."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is not installed, and CI is set")
    pytest.skip(f"{what} is not installed")


@contextmanager
def tcp_server(folder: Path, port: int, *options: str) -> Iterator[str]:
    """A ``redis-server`` on 127.0.0.1 that asks for `PASSWORD`; yields its URL."""
    command = [redis_server(), "--bind", "127.0.0.1", "--port", str(port), *options]
    command += ["--requirepass", PASSWORD, "--save", "", "--appendonly", "no", "--dir", str(folder)]
    url = f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{port}"
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


@dataclass(frozen=True)
class Cluster:
    """The masters of a cluster, each with a third of the slots at first."""

    urls: list[str]
    admins: list[redis.Redis]

    def slot(self, run_id: str) -> int:
        """The slot of a run's keys."""
        return int(self.admins[0].execute_command("CLUSTER", "KEYSLOT", f"{{{run_id}}}"))

    def run_of(self, node: int) -> str:
        """A run whose keys are at this node, if no slot has moved."""
        names = (f"run-{number}" for number in count())
        return next(name for name in names if self.slot(name) * 3 // SLOTS == node)

    def give(self, slot: int, node: int, to: Sequence[int]) -> None:
        """Tell the nodes ``to`` that ``slot`` is at ``node``."""
        owner = self.admins[node].execute_command("CLUSTER", "MYID")
        for each in to:
            self.admins[each].execute_command("CLUSTER", "SETSLOT", slot, "NODE", owner)


@contextmanager
def redis_cluster(folder: Path) -> Iterator[Cluster]:
    """Three masters that make a cluster."""
    with ExitStack() as stack:
        ports = [_cluster_port() for _ in range(3)]
        urls = []
        for port in ports:
            home = folder / str(port)
            home.mkdir()
            urls.append(stack.enter_context(tcp_server(home, port, "--cluster-enabled", "yes")))
        admins = [stack.enter_context(redis.Redis.from_url(url)) for url in urls]
        for node, admin in enumerate(admins):
            admin.execute_command("CLUSTER", "SET-CONFIG-EPOCH", node + 1)
            slots = [slot for slot in range(SLOTS) if slot * 3 // SLOTS == node]
            admin.execute_command("CLUSTER", "ADDSLOTS", *slots)
            admin.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0])
        deadline = time.monotonic() + 30.0
        while not all(map(_knows_all_slots, admins)):
            assert time.monotonic() < deadline, "the nodes do not find each other"
            time.sleep(0.02)  # a look must not take the core from the nodes
        yield Cluster(urls, admins)


def _cluster_port() -> int:
    """A free port; nodes of a cluster also talk at one that is greater by 10,000. Both are below
    those that the kernel gives to connections, so that none takes one before the node does."""
    while True:
        port = secrets.choice(range(10_000, 20_000))
        if _is_free(port) and _is_free(port + 10_000):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _knows_all_slots(admin: redis.Redis) -> bool:
    told = admin.execute_command("CLUSTER", "INFO")
    return b"cluster_state:ok" in told and f"cluster_slots_ok:{SLOTS}".encode() in told
