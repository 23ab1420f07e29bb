"""The servers that a configuration names: the queue's, with its password, and the cluster's."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from rhoselect.config import Config, QueueConfig
from rhoselect.errors import ConfigError
from rhoselect.queue.redis import server_name
from rhoselect.queue.redis.backend import RedisQueue
from rhoselect.runtime.machine import ray_folder

PASSWORD_VARIABLE = "RHOSELECT_QUEUE_PASSWORD"
REACH_S = 5.0
EXPIRY_S = 24 * 3600.0  # what an abandoned run leaves on a shared server is gone after a day


def open_queue(
    config: Config, url: str, run_id: str, generation: int, timeout_s: float | None = None
) -> RedisQueue:
    """A run's queue on the server at ``url``; ``timeout_s`` instead of queue.timeout_s."""
    timeout_s = timeout_s or config.queue.timeout_s
    return RedisQueue(
        url,
        run_id,
        generation,
        lease_s=config.queue.lease_s,
        expiry_s=EXPIRY_S,
        timeout_s=timeout_s,
    )


def queue_url(config: QueueConfig) -> str | None:
    """The URL with its password and TLS files, or None for the embedded server.

    The password comes from queue.password_file or the environment, never from the configuration,
    which is copied into the run folder. Raises ConfigError or QueueConfigError.
    """
    if config.url == "embedded":
        return None
    scheme = config.url.rpartition("://")[0]
    if scheme not in ("redis", "rediss", "unix"):
        raise ConfigError(
            f"queue.url: got scheme {scheme!r}, allowed 'embedded', redis://, rediss:// or unix://"
        )
    server_name(config.url)  # raises for whatever else is malformed
    parts = urlsplit(config.url)
    if parts.password is not None:
        raise ConfigError(
            "queue.url: holds a password, which would be copied into the run folder; put it into"
            f" queue.password_file or the environment variable {PASSWORD_VARIABLE}"
        )
    if "ssl_" in parts.query:
        raise ConfigError("queue.url: got files of TLS after '?', allowed as queue.tls_ca and so")
    password, tls = _password(config), urlencode(_tls(config, scheme))
    if not password and not tls:
        return config.url  # urlunsplit would not give a unix:// URL back
    query = "&".join(filter(None, (parts.query, tls)))
    netloc = parts.netloc
    if password:
        host = netloc.rpartition("@")[2]
        netloc = f"{parts.username or ''}:{quote(password, safe='')}@{host}"
    return urlunsplit(parts._replace(netloc=netloc, query=query))


def _password(config: QueueConfig) -> str | None:
    """The password of the file, else of the environment. Raises ConfigError."""
    if config.password_file is None:
        return os.environ.get(PASSWORD_VARIABLE)
    file = f"queue.password_file {config.password_file}"
    try:
        password = Path(config.password_file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    if not password:
        raise ConfigError(f"{file}: is empty, allowed a file with the password; leave the key out")
    return password


def _tls(config: QueueConfig, scheme: str) -> dict[str, str]:
    """redis-py's options for the files of [queue]. Raises ConfigError unless they can be used."""
    keys = {"tls_ca": config.tls_ca, "tls_cert": config.tls_cert, "tls_key": config.tls_key}
    given = {f"queue.{key}": file for key, file in keys.items() if file is not None}
    if given and scheme != "rediss":
        raise ConfigError(
            f"{next(iter(given))}: got it with queue.url of scheme {scheme!r}, allowed with"
            " rediss://, which alone is encrypted"
        )
    if (config.tls_cert is None) != (config.tls_key is None):
        raise ConfigError("queue.tls_cert: got it or queue.tls_key alone, allowed both or none")
    try:
        context = ssl.create_default_context(cafile=config.tls_ca)
        if config.tls_cert is not None:
            context.load_cert_chain(config.tls_cert, config.tls_key, password=lambda: "")
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(f"{key} {file}" for key, file in given.items())
        raise ConfigError(
            f"{files}: cannot be read as PEM ({error.strerror or error}), allowed certificates, and"
            " a key that is not encrypted"
        ) from None
    names = {"tls_ca": "ssl_ca_certs", "tls_cert": "ssl_certfile", "tls_key": "ssl_keyfile"}
    # Quoted, as redis-py takes a query's quotes off twice.
    return {names[key]: quote(file) for key, file in keys.items() if file is not None}


def check_cluster(config: Config, workers: int) -> None:
    """Raise ConfigError unless a run's actors can reach the cluster and, with scorers, the queue
    and the weights, and a cluster of the run's own has a place for its sockets.

    Ray itself goes on trying an address for minutes. "local" and "auto" name none to ask.
    """
    address = config.cluster.address
    if address == "local":
        ray_folder()
        return
    if workers and (config.queue.url == "embedded" or config.snapshots.transport == "shm"):
        raise ConfigError(
            f"cluster.address: got {address!r}, whose machines cannot reach an embedded queue"
            ' or shared memory; set queue.url to a server and snapshots.transport to "ray"'
        )
    if address == "auto":
        return
    try:
        parts = urlsplit(address if "://" in address else f"ray://{address}")
        socket.create_connection((parts.hostname or "", parts.port or 6379), REACH_S).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cluster.address: cannot reach {address!r} ({error}); allowed 'local', 'auto' or"
            " host:port of a running cluster"
        ) from None
