"""A run on a cluster: all its keys are at one node, which it finds, and finds again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from queue_helpers import chunk_scores, fill, until

from rhoselect.errors import QueueConfigError
from rhoselect.queue.redis import RedisQueue, check_server
from rhoselect.types import Ticket
from servers import PASSWORD, Cluster, redis_cluster

CHUNKS = [chunk_scores({1: 0.5, 2: 2.5}, rejected=[3]), chunk_scores({5: 1.5})]


@pytest.fixture(autouse=True)
def empty(cluster: Cluster) -> None:
    """Other tests of the session share the cluster."""
    for admin in cluster.admins:
        admin.flushall()


def queue_at(url: str, run_id: str) -> RedisQueue:
    return RedisQueue(url, run_id, 1, 60.0, 600.0, 30.0)


def refusal(url: str) -> str:
    with pytest.raises(QueueConfigError) as caught:
        check_server(url)
    return str(caught.value)


@pytest.mark.parametrize("given", [0, 1, 2])
def test_a_run_finds_its_node_from_any_other(cluster: Cluster, given: int) -> None:
    check_server(cluster.urls[given])
    for node in range(3):
        queue = queue_at(cluster.urls[given], cluster.run_of(node))
        fill(queue, 0, 0, CHUNKS)
        popped = queue.pop(0, 2, 0.0)
        assert popped is not None and popped.positions.tolist() == [2, 5]
        assert [admin.dbsize() > 0 for admin in cluster.admins] == [n == node for n in range(3)]
        queue.destroy()
        assert not any(admin.dbsize() for admin in cluster.admins)
        queue.disconnect()


def test_a_push_waits_while_its_slot_moves(cluster: Cluster) -> None:
    """As when a cluster gets one node more: until all keys are there, neither has the run."""
    run_id = cluster.run_of(1)
    slot, (_, source, target) = cluster.slot(run_id), cluster.admins
    queue = queue_at(cluster.urls[0], run_id)
    queue.open(0, 0, 2)
    assert queue.push(Ticket(0, 0, 0), CHUNKS[0])
    source.config_resetstat()
    there, here = (admin.execute_command("CLUSTER", "MYID") for admin in (target, source))
    target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", here)
    source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", there)
    with ThreadPoolExecutor(1) as pool:
        push = pool.submit(queue.push, Ticket(0, 1, 0), CHUNKS[1])
        until(
            lambda: {"errorstat_TRYAGAIN", "errorstat_ASK"} & set(source.info("errorstats")),
            "it was refused",
        )
        keys = source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
        port = target.connection_pool.connection_kwargs["port"]
        source.execute_command(
            *("MIGRATE", "127.0.0.1", port, "", 0, 5000, "AUTH", PASSWORD, "KEYS", *keys)
        )
        cluster.give(slot, 2, to=(2, 1, 0))
        assert push.result(30.0)
    popped = queue.pop(0, 9, 0.0)
    assert popped is not None and popped.positions.tolist() == [2, 5, 1]
    queue.destroy()
    queue.disconnect()


def test_a_run_outlives_any_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own, which is silent and whose slots another one gets, and the one of queue.url."""
    monkeypatch.setattr("rhoselect.queue.redis.server.SILENT_S", 0.5)
    with redis_cluster(tmp_path) as cluster:
        run_id, other = cluster.run_of(2), cluster.run_of(1)
        queue, second = queue_at(cluster.urls[0], run_id), queue_at(cluster.urls[0], other)
        queue.open(0, 0, 1)
        second.open(0, 0, 1)
        with frozen(cluster.admins[2]):
            message = refusal(cluster.urls[0])
            assert f"{cluster.urls[2].rpartition('@')[2]} cannot be reached" in message
            assert "cluster-announce-ip" in message
            with ThreadPoolExecutor(1) as pool:
                again = pool.submit(queue.open, 0, 0, 1)
                cluster.give(cluster.slot(run_id), 0, to=(0, 1))
                again.result(30.0)
            assert queue.claim(0, 0.0) == Ticket(0, 0, 0)
        cluster.admins[0].shutdown(nosave=True)
        cluster.admins[1].client_kill_filter(_type="normal", skipme=True)
        assert second.claim(0, 0.0) == Ticket(0, 0, 0)
        queue.disconnect()
        second.disconnect()


@contextmanager
def frozen(admin: redis.Redis) -> Iterator[None]:
    pid = admin.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_what_a_cluster_has_not_is_told(cluster: Cluster) -> None:
    assert "a cluster has database 0 alone" in refusal(f"{cluster.urls[0]}/3")
    cluster.admins[1].config_set("maxmemory-policy", "allkeys-lru")
    try:
        message = refusal(cluster.urls[0])
        assert f"{cluster.urls[1].rpartition('@')[2]} has maxmemory-policy allkeys-lru" in message
    finally:
        cluster.admins[1].config_set("maxmemory-policy", "noeviction")
