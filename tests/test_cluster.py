"""Runs on a Ray cluster of several nodes: where actors go, what is said when they cannot."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from rhoselect import config as configuration
from rhoselect.errors import ConfigError
from rhoselect.hardware import releases
from rhoselect.runtime.ray import placement
from servers import PASSWORD, free_port, tcp_server
from support import ended_well, hashes, made, rhoctl, until
from test_faults import checkpoints

QUICKLY = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 200}  # see who died
HEAD = {"num_cpus": 2, "resources": {"rho_trainer": 1}, "_system_config": QUICKLY}
NODE = {"num_cpus": 1, "resources": {"rho_scorer": 1000}}
STEPS = 120
SETS = [
    "cluster.trainer={rho_trainer=1}",
    "cluster.scorer={rho_scorer=1}",
    "queue.lease_s=1.0",
    f"trainer.steps={STEPS}",
]


@dataclass(frozen=True)
class Nodes:
    """A cluster's address, its process, and the environment of those that may use it."""

    address: str
    process: subprocess.Popen[str]
    environment: Mapping[str, str]

    def kill(self, number: int) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == f"{number}\n"

    def train(self, *arguments: str | Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "rhoselect.cli", "train", *map(str, arguments)]
        return subprocess.Popen(command, env=self.environment, stderr=subprocess.PIPE, text=True)


def refused(process: subprocess.Popen[str], message: str) -> None:
    """The process says so in one line and ends with exit code 2."""
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    *_, last = errors.splitlines()  # Ray may have had something to say before
    assert re.fullmatch(f"rhoctl: {message}", last), errors


@contextmanager
def nodes(*each: Mapping[str, Any]) -> Iterator[Nodes]:
    """Nodes with a token, and with a folder of Ray's own that is short enough for sockets."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    environment = {**os.environ, **token, "RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {"RHOSELECT_QUEUE_PASSWORD": PASSWORD, "RAY_worker_niceness": "0"}
    command = [sys.executable, Path(__file__).with_name("nodes.py"), *map(json.dumps, each)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    try:
        with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
            assert process.stdout
            yield Nodes(process.stdout.readline().strip(), process, environment)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The ``queue.url`` of a server with a password, which is in the environment."""
    port = free_port()
    with tcp_server(tmp_path_factory.mktemp("server"), port):
        yield f"redis://127.0.0.1:{port}"


def flags(*sets: str) -> list[str]:
    return [word for each in sets for word in ("--set", each)]


@pytest.mark.long
@pytest.mark.timeout(240)
def test_two_nodes_of_which_one_is_killed(tiny_config: Path, tmp_path: Path, server: str) -> None:
    """Two scorers on a node each; then one of too few nodes, for want of room."""
    made("train", tiny_config, "--run-dir", tmp_path / "alone", *flags(*SETS))
    with nodes(HEAD, NODE, NODE) as cluster:
        sets = flags(*SETS, f"cluster.address={cluster.address}", f"queue.url={server}")
        run = tmp_path / "run"
        process = cluster.train(tiny_config, "--workers", "2", "--run-dir", run, *sets)
        until(lambda: bool(checkpoints(run)), process)
        assert {log.stem for log in run.glob("logs/*.log")} >= {"trainer", "scorer-0", "scorer-1"}
        cluster.kill(2)
        ended_well(process)
        assert hashes(run) == hashes(tmp_path / "alone")

        command = [tiny_config, "--workers", "2", "--run-dir", tmp_path / "refused", *sets]
        crowded = cluster.train(*command, *flags("cluster.start_s=0.5"))
        refused(
            crowded,
            r"cluster\.address: \d of 3 actors do not run \(.*scorer \d\);"
            r" a trainer asks for CPU 1, rho_trainer 1; a scorer asks for CPU 1, rho_scorer 1;"
            r" free in the cluster: CPU 1 of 3, rho_scorer 999 of 1000, rho_trainer 0 of 1"
            r" after 0\.5 s; lower --workers, .*",
        )
        assert not (tmp_path / "refused").exists(), "nothing has begun in it"


def test_what_actors_take(tiny_config: Path) -> None:
    """Threads as CPUs, one scorer a GPU, whatever the configuration adds; on a cluster of one's own
    any number fits."""
    sets = ["scorer.threads=3", "scorer.device=cuda", "trainer.device=cpu"]
    sets += ["cluster.trainer={rho_trainer=1, CPU=5}", "cluster.scorer={rho_scorer=0.5}"]
    config = configuration.load(tiny_config, [*sets, "cluster.address=auto"])
    trainer, scorer = placement.trainer_options(config), placement.scorer_options(config)
    assert (trainer["num_cpus"], trainer["num_gpus"]) == (5, 0)
    assert trainer["resources"] == {"rho_trainer": 1}
    assert (scorer["num_cpus"], scorer["num_gpus"]) == (3, 1)
    assert scorer["resources"] == {"rho_scorer": 0.5}
    assert scorer["scheduling_strategy"] == "SPREAD"
    alone = placement.scorer_options(configuration.load(tiny_config, sets))
    assert (alone["num_cpus"], alone["num_gpus"], alone["resources"]) == (0, 0, {})


def test_a_node_that_cannot_take_part_says_why(
    tiny_config: Path, tmp_path: Path, il_table: Path, server: str
) -> None:
    there = configuration.load(tiny_config, ["cluster.address=auto"])
    url = server.replace("redis://", f"redis://:{quote(PASSWORD, safe='')}@")
    placement.check_node(there, tmp_path, url, releases())

    elsewhere = configuration.load(tiny_config, ["cluster.address=auto", "il.table=/elsewhere"])
    closed = f"redis://127.0.0.1:{free_port()}"
    wrong: dict[str, Callable[[], None]] = {
        r"got torch '.*', allowed that of the process that began the run: torch '1\.0', ": lambda: (
            placement.check_node(there, tmp_path, url, releases() | {"torch": "1.0"})
        ),
        r"--run-dir /nowhere does not exist there; .*shared folder": lambda: placement.check_node(
            there, Path("/nowhere"), url, releases()
        ),
        r"il\.table /elsewhere does not exist there;": lambda: placement.check_node(
            elsewhere, tmp_path, url, releases()
        ),
        r"queue\.url: .*cannot be reached": lambda: placement.check_node(
            there, tmp_path, closed, releases()
        ),
        r"queue\.url: .*refuses the user name or password": lambda: placement.check_node(
            there, tmp_path, server, releases()
        ),
    }
    for message, check in wrong.items():
        with pytest.raises(ConfigError, match=rf"^node [\d.]+: {message}") as caught:
            check()
        assert "\n" not in str(caught.value)


def test_paths_mean_the_same_on_every_node(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a relative one leads depends on where a node's processes were started."""
    folder = tiny_config.parent
    monkeypatch.chdir(folder)
    relative = ["data.path=patches", "il.table=il.parquet"]
    assert configuration.load(tiny_config, relative) == configuration.load(tiny_config)
    remote = configuration.load(tiny_config, ["data.path=s3://bucket/set"])
    assert remote.data.path == "s3://bucket/set"


@pytest.mark.matrix
@pytest.mark.timeout(120)
def test_a_trainer_without_a_place_is_said(
    ray_session: None, tiny_config: Path, tmp_path: Path
) -> None:
    """Not waited for without end, where something else holds all of a "local" cluster."""
    import ray

    util: Any = ray.util
    everything = util.placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
    try:
        assert everything.wait(30)
        keys = ("--workers", "1", "--set", "cluster.start_s=2")
        result = rhoctl("train", tiny_config, "--run-dir", tmp_path / "run", *keys)
    finally:
        util.remove_placement_group(everything)
    assert (result.code, result.err.count("\n")) == (2, 1), result
    assert "1 of 1 actors do not run (trainer); a trainer asks for CPU 1" in result.err
    assert not (tmp_path / "run").exists()
