"""Serves the metrics of a process, and writes the files by which Prometheus finds them.

Every process of a run writes one file for Prometheus' file service discovery into the run folder,
``logs/metrics/<worker>.json``, and, if ``metrics.discovery_dir`` is set, the same under a name of
its own into that folder, which one Prometheus reads for many runs. A worker that is started again
overwrites its file; those of a run that ended in order are removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server

from rhoselect.config.operation import MetricsConfig
from rhoselect.errors import ConfigError, RunStopped
from rhoselect.files import replacing

LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"


def check_endpoint(config: MetricsConfig) -> None:
    """Raise ConfigError unless a server could listen as configured, and be announced."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((config.host, max(config.port, 0)))
    except OSError as error:
        raise ConfigError(
            f"metrics.port: got {config.port}, which cannot be opened on metrics.host ="
            f" {config.host!r} ({error.strerror}); allowed a free port, 0 to have one chosen or -1"
            " for none"
        ) from None
    if config.discovery_dir is None:
        return
    folder = Path(config.discovery_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"metrics.discovery_dir {folder}: cannot be made ({error.strerror}); allowed a folder,"
            " which Prometheus' file_sd_configs read as <folder>/*.json"
        ) from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(
            f"metrics.discovery_dir {folder}: not writable; allowed a folder that runs may write to"
        )


def listen(registry: CollectorRegistry, host: str, port: int) -> str:
    """Serve ``registry`` over HTTP; returns host:port as another machine would name it."""
    server, _ = start_http_server(port, host, registry)
    return f"{_seen_as(host)}:{server.server_port}"


def announce(config: MetricsConfig, run: Path, role: str, worker: str, address: str) -> None:
    """Write the files by which Prometheus finds ``address``."""
    labels = {"run": run.name, "role": role, "worker": worker}
    text = json.dumps([{"targets": [address], "labels": labels}])
    for path in _files(config, run, worker):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:  # atomically: Prometheus may read at any time
            beside.write_text(text, "utf-8")


@contextmanager
def announced(config: MetricsConfig, run: Path) -> Iterator[None]:
    """Remove the files of all processes of ``run`` when the block ends normally or the run is
    stopped. After a failure they stay, so that Prometheus shows the processes as down."""
    try:
        yield
    except (KeyboardInterrupt, RunStopped):
        withdraw(config, run)
        raise
    withdraw(config, run)


def withdraw(config: MetricsConfig, run: Path, worker: str = "*") -> None:
    """Remove the files that ``announce`` wrote for ``worker`` ("*": for all processes)."""
    for pattern in _files(config, run, worker):
        for path in pattern.parent.glob(pattern.name):
            path.unlink(missing_ok=True)


def _files(config: MetricsConfig, run: Path, worker: str) -> list[Path]:
    files = [run / "logs" / "metrics" / f"{worker}.json"]
    if config.discovery_dir is not None:
        # Runs in different places may have the same name.
        place = hashlib.sha256(os.fsencode(run.resolve())).hexdigest()[:8]
        files.append(Path(config.discovery_dir) / f"{run.name}-{place}-{worker}.json")
    return files


def _seen_as(host: str) -> str:
    if host != EVERYWHERE:
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; chooses the local address
        except OSError:  # this machine has no network
            return LOOPBACK
        return str(probe.getsockname()[0])
