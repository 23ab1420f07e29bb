"""Which servers are refused, with what words, and what of a URL may be shown."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from queue_helpers import chunk_scores, fill

from rhoselect.errors import QueueConfigError, RunError, WaitError
from rhoselect.queue.redis import RedisQueue, check_server, server_name
from rhoselect.queue.redis.server import with_retries
from rhoselect.runtime.queue_server import EmbeddedServer
from servers import PASSWORD, free_port

CHUNKS = [chunk_scores({1: 0.5, 2: 2.5}, rejected=[3]), chunk_scores({5: 1.5})]


def config_error(url: str) -> str:
    with pytest.raises(QueueConfigError) as caught:
        check_server(url)
    message = str(caught.value)
    assert "\n" not in message and "s3cret" not in message and "hunter2" not in message
    return message


def test_check_accepts_good_servers(server_url: str) -> None:
    check_server(server_url)


def test_check_refuses_a_wrong_or_missing_password(tcp_url: str) -> None:
    address = tcp_url.rpartition("@")[2]
    for credentials in ("", ":hunter2@", "someone:hunter2@"):
        message = config_error(f"redis://{credentials}{address}")
        assert f"redis://{address} refuses the user name or password" in message
    queue = RedisQueue(f"redis://:hunter2@{address}", "run", 1, 60.0, 600.0, 5.0)
    with pytest.raises(RunError, match="refuses the user name or password") as caught:
        queue.stats()
    queue.disconnect()
    assert "hunter2" not in str(caught.value)


def test_a_connection_that_tcp_gives_up_is_made_again() -> None:
    """Long before our own deadline, when the server's machine is gone without a word."""
    troubles: list[Exception] = [redis.TimeoutError("gone"), redis.ConnectionError("reset")]

    def call() -> int:
        if troubles:
            raise troubles.pop()
        return 7

    assert with_retries(call, lambda: "server", timeout_s=60.0) == 7
    troubles = [redis.TimeoutError("gone")]
    with pytest.raises(WaitError, match="server: lost for 0 s"):
        with_retries(call, lambda: "server", timeout_s=0.0)


def test_check_refuses_an_unreachable_server(tmp_path: Path) -> None:
    port = free_port()
    assert "cannot be reached" in config_error(f"redis://:hunter2@127.0.0.1:{port}")
    assert "cannot be reached" in config_error(f"rediss://:hunter2@127.0.0.1:{port}")
    assert "cannot be reached" in config_error(f"unix://:hunter2@{tmp_path}/none.sock")


def test_check_refuses_a_server_that_evicts(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "log") as server, redis.Redis.from_url(server.url) as admin:
        admin.config_set("maxmemory-policy", "allkeys-lru")
        assert "maxmemory-policy allkeys-lru, allowed noeviction" in config_error(server.url)


def test_check_refuses_a_full_server(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "log") as server, redis.Redis.from_url(server.url) as admin:
        admin.config_set("maxmemory", "1")
        message = config_error(server.url)
        assert "is full: it uses" in message and "raise its maxmemory" in message


def test_check_refuses_a_replica(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "log") as server, redis.Redis.from_url(server.url) as admin:
        admin.replicaof("127.0.0.1", free_port())
        assert "replica" in config_error(server.url)


def test_check_refuses_an_old_server(tcp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rhoselect.queue.redis.check.OLDEST", (99, 0))
    assert "allowed Redis >= 6.2 or Valkey >= 8" in config_error(tcp_url)


def test_a_user_without_dangerous_commands_suffices(server_url: str, admin: redis.Redis) -> None:
    rights = ["+@all", "-@dangerous"]
    grant = ["ACL", "SETUSER", "plain", "reset", "on", f">{PASSWORD}", "~rho:*", *rights]
    url = f"redis://plain:{quote(PASSWORD, safe='')}@" + server_url.rpartition("@")[2]
    if server_url.startswith("unix"):
        url = server_url.replace("unix://", f"unix://plain:{quote(PASSWORD, safe='')}@")
    admin.execute_command(*grant)
    assert "'info' command" in config_error(url)
    admin.execute_command(*grant, "+info")
    check_server(url)
    queue = RedisQueue(url, "run", 1, 60.0, 600.0, 5.0)
    fill(queue, 0, 0, CHUNKS)
    assert queue.pop(0, 1, 0.0) is not None
    assert queue.claim(0, 0.01) is None
    queue.close(0)
    queue.destroy()
    queue.disconnect()


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cret/x@host:6379",
        "redis://:s3cret#x@host:6379",
        "redis://:12#s3cret@host:6379",
        "redis://:12/s3cret@host:6379",
        "redis://host/s3cret",
        "unix://:s3cret/x@/run/queue.sock",
        "unix://",
        "redis://host:port",
        "http://:s3cret@host",
        "s3cret",
        "redis://host?db=s3cret",
    ],
)
def test_check_refuses_a_malformed_url(url: str) -> None:
    assert "malformed" in config_error(url)


def test_check_refuses_an_unknown_option(tcp_url: str) -> None:
    assert "unknown option" in config_error(f"{tcp_url}?pasword=s3cret")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://user:s3cret@host/3?db=3", "redis://host:6379/3"),
        ("rediss://:s3cret@host:1/", "rediss://host:1"),
        ("redis://", "redis://localhost:6379"),
        ("unix://:s3cret@/run/a%20b.sock?db=1", "unix:///run/a b.sock"),
    ],
)
def test_servers_are_named_without_secrets(url: str, name: str) -> None:
    assert server_name(url) == name
