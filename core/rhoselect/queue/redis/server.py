"""Reaching a Redis-protocol server, and refusing one that would lose data.

No message ever holds a password: servers are named by `server_name`, and the text of an error
that was raised while a URL was parsed is dropped. A rediss:// server's certificate and host name
are always verified: of the options of redis-py a URL may hold only those of `OPTIONS`.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from rhoselect.errors import FencedError, QueueConfigError, RunError, WaitError, shortened

OLDEST = (6, 2)
OPTIONS = {"db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
CHECK_TIMEOUT_S = 5.0
_T = TypeVar("_T")


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
    """A client that connects at its first call. A call without an answer for ``timeout_s`` fails.

    The client does not retry: `with_retries` does, until a deadline.
    """
    server_name(url)
    try:
        return redis.Redis.from_url(
            url,
            protocol=2,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:
        raise _malformed() from None


def with_retries(call: Callable[[], _T], name: str, timeout_s: float) -> _T:
    """The result of ``call()``, repeated for up to ``timeout_s`` while the server ``name`` is
    unreachable or has become a read-only replica in a failover.

    Every call but a claim is idempotent; if a claim's answer is lost, `reap` hands its ticket out
    again. Raises WaitError when the server stays unreachable, RunError when it answers with an
    error, FencedError when a script found a newer generation.
    """
    deadline = time.monotonic() + timeout_s
    pause = 0.01
    while True:
        try:
            return call()
        except redis.AuthenticationError as error:
            raise RunError(
                f"queue server {name} refuses the user name or password: {_one_line(error)}"
            ) from None
        except (
            redis.TimeoutError,  # also TCP's own, long before ours, when the machine is down
            redis.ConnectionError,
            redis.exceptions.ReadOnlyError,
        ) as error:
            if _untrusted(error):
                raise RunError(
                    f"queue server {name}: {_one_line(error)}; see queue.tls_ca"
                ) from None
            if time.monotonic() + pause > deadline:
                raise WaitError(
                    f"queue server {name}: lost for {timeout_s:g} s ({_one_line(error)})"
                ) from None
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
        except redis.RedisError as error:
            if str(error).startswith("FENCED"):
                raise FencedError(
                    f"queue server {name}: a newer trainer owns this run; this one stops"
                ) from None
            raise RunError(f"queue server {name}: {_one_line(error)}") from None


def ping(url: str, timeout_s: float = CHECK_TIMEOUT_S) -> bool:
    """Whether the server answers within ``timeout_s``."""
    client = connect(url, timeout_s)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def check_server(url: str) -> None:
    """Raise QueueConfigError, one line, unless the server can hold a queue without losing data."""
    name = server_name(url)
    client = connect(url, CHECK_TIMEOUT_S)
    try:
        client.ping()
        info = client.info()
    except redis.AuthenticationError:
        raise QueueConfigError(
            f"queue.url: {name} refuses the user name or password (or asks for one and got none);"
            " write it into a file and name that as queue.password_file"
        ) from None
    except NoPermissionError as error:
        raise QueueConfigError(
            f"queue.url: {name} forbids what the queue needs ({_one_line(error)});"
            " grant the user what docs/security.md lists"
        ) from None
    except redis.RedisError as error:
        raise QueueConfigError(
            f"queue.url: {name} cannot be reached ({_one_line(error)}); {_remedy(error, name)}"
        ) from None
    finally:
        client.close()
    _check_info(name, info)


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
    if info.get("role") != "master":
        raise QueueConfigError(f"queue.url: {name} is a read-only replica, allowed its primary")


def _untrusted(error: Exception) -> bool:
    """Whether the error is that the server's certificate could not be verified."""
    return isinstance(error.__context__, ssl.SSLCertVerificationError)


def _remedy(error: Exception, name: str) -> str:
    if _untrusted(error):
        return "set queue.tls_ca to the PEM file of the CA that signed its certificate"
    if name.startswith("rediss://"):
        return "start the server with TLS; set queue.tls_cert if it requires one"
    return 'start the server, or set queue.url to "embedded"'


def _one_line(error: Exception) -> str:
    return shortened(str(error))
