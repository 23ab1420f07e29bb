"""Reaching a Redis-protocol server, and which of its errors pass.

No message ever holds a password: servers are named by `server_name`, and the text of an error
that was raised while a URL was parsed is dropped. A rediss:// server's certificate and host name
are always verified: of the options of redis-py a URL may hold only those of `OPTIONS`.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from rhoselect.errors import (
    FencedError,
    QueueConfigError,
    RhoError,
    RunError,
    WaitError,
    shortened,
)

OPTIONS = {"db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
PING_TIMEOUT_S = 5.0
SILENT_S = 30.0  # then a call is repeated, in a cluster at another node: its machine may be gone
GRANT = "grant the user what docs/security.md lists"
_T = TypeVar("_T")

_LOST = (redis.TimeoutError, redis.ConnectionError)  # TCP also gives up, long before our deadline
_PASSING = (
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    exceptions.AskError,  # MOVED is one: `Link` turns to the node that it names
    exceptions.NoScriptError,  # the link turned to another node after it had loaded the script
)
# The same errors from within a script, which an older server quotes, and those without a class.
_PASSING_CODES = re.compile(r"(?:^|-)(?:OOM|READONLY|MISCONF|NOREPLICAS|BUSY|UNBLOCKED) ")
_FORBIDDEN = re.compile(r"NOPERM|permission|can't (?:run|access)")


def server_name(url: str) -> str:
    """The URL without user name, password and options.

    Raises QueueConfigError if malformed, or for other options than `OPTIONS`.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError:
        raise _malformed() from None
    # An unescaped "/", "#" or "@" in a password would move its tail into the parts shown below.
    if parts.scheme not in ("redis", "rediss", "unix") or parts.fragment or "@" in parts.path:
        raise _malformed()
    if {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)} - OPTIONS:
        raise QueueConfigError(
            "queue.url: got an unknown option after '?' (not shown, it may be a password), allowed"
            " db=N alone; put user and host before the '?', and set other options in [queue]"
        )
    if parts.scheme == "unix":
        if not parts.path:
            raise _malformed()
        return f"unix://{unquote(parts.path)}"
    if parts.path.strip("/") and not parts.path.strip("/").isdecimal():
        raise _malformed()
    return f"{parts.scheme}://{parts.hostname or 'localhost'}:{port}{parts.path.rstrip('/')}"


def _malformed() -> QueueConfigError:
    return QueueConfigError(
        "queue.url: got a malformed URL (not shown, it may hold a password), allowed"
        " redis[s]://[user@]host[:port][/db] or unix://[user@]/path; passwords go into"
        " queue.password_file"
    )


def connect(url: str, timeout_s: float) -> redis.Redis:
    """A client that connects at its first call. A call without an answer for ``timeout_s``, at most
    `SILENT_S`, fails.

    The client does not retry: `with_retries` does, until a deadline.
    """
    server_name(url)
    silent_s = min(timeout_s, SILENT_S)
    try:
        return redis.Redis.from_url(
            url,
            protocol=2,
            socket_timeout=silent_s,
            socket_connect_timeout=silent_s,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:
        raise _malformed() from None


def node_url(url: str, host: str, port: int) -> str:
    """``url`` with the address of another node of its cluster. A node that does not know its own
    host name has the host of ``url``."""
    parts = urlsplit(url)
    credentials, at, _ = parts.netloc.rpartition("@")
    host = (parts.hostname or "localhost") if host in ("", "?") else host
    host = f"[{host}]" if ":" in host else host
    return urlunsplit(parts._replace(netloc=f"{credentials}{at}{host}:{port}"))


def with_retries(call: Callable[[], _T], name: Callable[[], str], timeout_s: float) -> _T:
    """The result of ``call()``, repeated for up to ``timeout_s`` while the server is unreachable or
    refuses for now: it is full, cannot save, is a read-only replica in a failover, or a node of a
    cluster whose slots are moving. ``name()`` names the server that was called last.

    Every call but a claim is idempotent; if a claim's answer is lost, `reap` hands its ticket out
    again. Raises WaitError when the trouble stays, RunError when the server answers with another
    error, FencedError when a script found a newer generation.
    """
    deadline = time.monotonic() + timeout_s
    pause = 0.01
    while True:
        try:
            return call()
        except redis.RedisError as error:
            if not _passes(error):
                raise _failure(error, name()) from None
            if time.monotonic() + pause > deadline:
                raise WaitError(_given_up(error, name(), timeout_s)) from None
        time.sleep(pause)
        pause = min(2 * pause, 1.0)


def _passes(error: redis.RedisError) -> bool:
    """Whether the same call may succeed later."""
    if isinstance(error, redis.AuthenticationError) or untrusted(error):
        return False
    return isinstance(error, _LOST + _PASSING) or bool(_PASSING_CODES.search(str(error)))


def _failure(error: redis.RedisError, name: str) -> RhoError:
    reason = one_line(error)
    if isinstance(error, redis.AuthenticationError):
        return RunError(f"queue server {name} refuses the user name or password: {reason}")
    if untrusted(error):
        return RunError(f"queue server {name}: {reason}; see queue.tls_ca")
    if reason.startswith("FENCED"):
        return FencedError(f"queue server {name}: a newer trainer owns this run; this one stops")
    advice = f"; {GRANT}" if forbidden(error) else ""
    return RunError(f"queue server {name}: {reason}{advice}")


def _given_up(error: redis.RedisError, name: str, timeout_s: float) -> str:
    reason = one_line(error)
    if isinstance(error, _LOST):
        return f"queue server {name}: lost for {timeout_s:g} s ({reason})"
    if "maxmemory" in str(error):
        return (
            f"queue server {name}: full for {timeout_s:g} s ({reason}); make room there or raise"
            " its maxmemory, then continue the run with --resume"
        )
    return f"queue server {name}: refuses for {timeout_s:g} s ({reason})"


def ping(url: str, timeout_s: float = PING_TIMEOUT_S) -> bool:
    """Whether the server answers within ``timeout_s``."""
    client = connect(url, timeout_s)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def forbidden(error: redis.RedisError) -> bool:
    """Whether the error is that the user may not do this."""
    return bool(isinstance(error, exceptions.NoPermissionError) or _FORBIDDEN.search(str(error)))


def untrusted(error: Exception) -> bool:
    """Whether the error is that the server's certificate could not be verified."""
    return isinstance(error.__context__, ssl.SSLCertVerificationError)


def one_line(error: Exception) -> str:
    """The error's text, in one line."""
    return shortened(str(error))
