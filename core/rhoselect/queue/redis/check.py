"""Refusing a server that would lose data, or that does not let a run do all it must."""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import redis

from rhoselect.errors import QueueConfigError, RunError
from rhoselect.queue.redis.backend import RedisQueue
from rhoselect.queue.redis.server import (
    GRANT,
    connect,
    forbidden,
    node_url,
    one_line,
    server_name,
    untrusted,
)
from rhoselect.types import ChunkScores, Ticket

OLDEST = (6, 2)
CHECK_TIMEOUT_S = 5.0
_EXPIRY_S = 60.0  # of what a check leaves if it is killed
_POINT = np.ones(1, np.uint64)
_SCORES = ChunkScores(_POINT, np.zeros(1), rejected=_POINT, features=np.zeros((1, 1), np.float32))


def check_server(url: str) -> None:
    """Raise QueueConfigError, one line, unless the server, or each master of its cluster, can hold
    a queue without losing data, and lets this user do all that a run does: that is done, under a
    name of its own."""
    name = server_name(url)
    info = _ask(url, ("INFO",))
    if info.get("cluster_enabled"):
        for master in _masters(url):
            _check_info(server_name(master), _ask(master, ("INFO",), f"a master of {name}: "))
    elif info.get("role") != "master":
        raise QueueConfigError(f"queue.url: {name} is a read-only replica, allowed its primary")
    else:
        _check_info(name, info)
    # A run does this if the server does not have its scripts, as after a restart.
    _ask(url, ("SCRIPT", "LOAD", "return 1"))
    try:
        _use(url)
    except RunError as error:
        raise QueueConfigError(f"queue.url: {error}") from None


def _ask(url: str, command: tuple[str, ...], what: str = "") -> Any:
    """The answer to a command. Raises QueueConfigError, which calls the server ``what`` it is."""
    name = f"{what}{server_name(url)}"
    client: Any = connect(url, CHECK_TIMEOUT_S)
    try:
        client.ping()
        return client.execute_command(*command)
    except redis.AuthenticationError:
        raise QueueConfigError(
            f"queue.url: {name} refuses the user name or password (or asks for one and got none);"
            " write it into a file and name that as queue.password_file"
        ) from None
    except redis.RedisError as error:
        if forbidden(error):
            raise QueueConfigError(
                f"queue.url: {name} forbids what the queue needs ({one_line(error)}); {GRANT}"
            ) from None
        remedy = _remedy(error, name, bool(what))
        raise QueueConfigError(
            f"queue.url: {name} cannot be reached ({one_line(error)}); {remedy}"
        ) from None
    finally:
        client.close()


def _check_info(name: str, info: dict[str, Any]) -> None:
    """Check the answer to INFO. Hosted servers and plain users may run INFO, but not CONFIG."""
    version = str(info["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise QueueConfigError(
            f"queue.url: {name} is version {version}, allowed Redis >= 6.2 or Valkey >= 8"
        )
    policy = info["maxmemory_policy"]
    if policy != "noeviction":
        raise QueueConfigError(
            f"queue.url: {name} has maxmemory-policy {policy}, allowed noeviction (another would"
            " drop scores); run CONFIG SET maxmemory-policy noeviction"
        )
    used, most = info["used_memory"], info["maxmemory"]
    if 0 < most <= used:
        raise QueueConfigError(
            f"queue.url: {name} is full: it uses {used} bytes of its maxmemory {most}; make room"
            " there or raise its maxmemory"
        )


def _masters(url: str) -> list[str]:
    """The URL of each master of the cluster, one of whose nodes is at ``url``."""
    if urlsplit(url).scheme == "unix":
        raise QueueConfigError(
            "queue.url: got the socket of a cluster's node, allowed its redis[s]:// address"
        )
    slots = _ask(url, ("CLUSTER", "SLOTS"))
    addresses = {(bytes(host or b"").decode(), port) for _, _, (host, port, *_), *_ in slots}
    return [node_url(url, host, port) for host, port in sorted(addresses)]


def _use(url: str) -> None:
    """Make every call of a queue. Raises RunError."""
    name = f"check-{secrets.token_hex(8)}"
    queue = RedisQueue(url, name, 1, CHECK_TIMEOUT_S, _EXPIRY_S, CHECK_TIMEOUT_S)
    try:
        queue.open(0, 1, 2)
        queue.push(Ticket(0, 1, 1), _SCORES)
        # The chunk left is of another lane and wants newer weights: every way to look for one.
        queue.claim(1, 0.2, lanes=2, loaded=0)
        queue.claim(0, 0.0)
        queue.reap(0)
        queue.push(Ticket(0, 0, 1), _SCORES)
        queue.peek(1)
        queue.pop(0, 1, 0.0)
        queue.rejected(0)
        queue.open_shortlist(0, 1, _POINT, 1)
        queue.stats()
        queue.close(0)
        queue.check_fence()
        queue.destroy()
    finally:
        queue.disconnect()


def _remedy(error: Exception, name: str, told: bool) -> str:
    if untrusted(error):
        return "set queue.tls_ca to the PEM file of the CA that signed its certificate"
    if "SELECT" in str(error):
        return "a cluster has database 0 alone; leave the number at the end of queue.url out"
    if told:
        return (
            "its cluster names it by this address; start it, or set its cluster-announce-ip or"
            " cluster-announce-hostname to an address that every machine of a run reaches"
        )
    if name.startswith("rediss://"):
        return "start the server with TLS; set queue.tls_cert if it requires one"
    return 'start the server, or set queue.url to "embedded"'
