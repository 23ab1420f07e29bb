"""The servers that a configuration names: the queue's, with its password, and the cluster's."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from rhoselect.config import Config, QueueConfig
from rhoselect.errors import ConfigError
from rhoselect.queue.redis import server_name

PASSWORD_VARIABLE = "RHOSELECT_QUEUE_PASSWORD"
REACH_S = 5.0


def queue_url(config: QueueConfig) -> str | None:
    """The URL with its password, or None for the embedded server.

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
    password = os.environ.get(PASSWORD_VARIABLE)
    if config.password_file is not None:
        try:
            password = Path(config.password_file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"queue.password_file {config.password_file}: cannot be read: {error}"
            ) from None
    if not password:
        return config.url
    user = f"{parts.username or ''}:{quote(password, safe='')}@"
    return urlunsplit(parts._replace(netloc=user + parts.netloc.rpartition("@")[2]))


def check_cluster(config: Config) -> None:
    """Raise ConfigError unless a run's actors can reach the cluster, the queue and the weights.

    Ray itself goes on trying an address for minutes. "local" and "auto" name none to ask.
    """
    address = config.cluster.address
    if address == "local":
        return
    if config.queue.url == "embedded" or config.snapshots.transport == "shm":
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
