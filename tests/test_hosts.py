"""docs/deploy.md on hosts of this machine's own making: `ray up`, runs, a host lost, `ray down`.

Without $WHEELS every host finds this environment instead of installing the package. With it (a
folder of wheels: `make cluster-package`, then with the Python of the hosts, /usr/bin/python3 here,
`pip download -d DIR -c constraints.txt dist/cluster/*.whl`) each installs as the page says.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from servers import missing
from support import hashes, made, until
from test_faults import checkpoints

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

PROJECT = Path(__file__).parents[1]
DESK, HEAD, SCORERS = "10.77.0.1", "10.77.0.2", ["10.77.0.3", "10.77.0.4"]
STEPS = 300
DOWN_S = 180.0  # the scorers' hosts leave when they have missed the head for a minute
RESULT = ["trainer.micro_batches=2", "trainer.steps=120"]
# Two CPUs a host: each rank needs one of the scorers' hosts for itself.
KEYS = ["trainer.devices=2", "cluster.trainer={CPU=2, rho_scorer=1}", "cluster.scorer={CPU=1}"]
RANKS = " ".join(f'--set "{key}"' for key in RESULT + KEYS)
UP_S = 300.0  # Ray starts the scorers' hosts one after the other


@dataclass(frozen=True)
class Desk:
    """The machine from which a cluster is started; ``folder`` is seen by every host."""

    folder: Path
    pid: int

    def start(self, *command: str | Path, **options: Any) -> subprocess.Popen[str]:
        """A command on the desk."""
        enter = ["nsenter", f"--target={self.pid}", "--net", "--pid", "--mount", "--uts"]
        enter.append(f"--wd={self.folder}")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"HOME": str(self.folder / "desk"), "PATH": path, "TERM": "dumb"}
        environment["RAY_USAGE_STATS_ENABLED"] = "0"
        words = [*enter, *map(str, command)]
        return subprocess.Popen(words, env=environment, text=True, **options)

    def run(self, *command: str | Path) -> str:
        """The output of a command on the desk, which must work."""
        process = self.start(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        return output

    def on(self, host: str, command: str) -> subprocess.Popen[str]:
        """A command on a host."""
        known = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        ssh = ["ssh", "-q", "-i", self.folder / "id", *known, host]
        return self.start(*ssh, f"bash -lic '{command}'", stdout=subprocess.PIPE)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A desk and three hosts. They are gone with the process that made them."""
    for tool in ("unshare", "nsenter", "ip", "ssh", "rsync", "sshd"):
        if not shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin"):
            missing(f"{tool} (util-linux, iproute2, openssh-server, openssh-client, rsync)")
    if os.geteuid() != 0:
        missing("root, who alone makes hosts,")
    folder = tmp_path_factory.mktemp("hosts")
    spaces = ["--net", "--pid", "--mount", "--uts", "--fork", "--mount-proc", "--kill-child"]
    script = [Path(__file__).with_name("hosts.sh"), folder, str(1 + len(SCORERS))]
    command = ["unshare", *spaces, *script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stdout.readline() == "ready\n"
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            yield Desk(folder, int(children))
        finally:
            process.kill()


@pytest.fixture(scope="module")
def cluster(desk: Desk) -> Path:
    """deploy/ray/local.yaml, filled in. The cluster is up."""
    desk.run("ray", "get-auth-token", "--generate")
    package = desk.folder / "dist" / "cluster"
    package.mkdir(parents=True)
    for name in ("environment.sh", "queue-server.sh"):
        shutil.copy(PROJECT / "deploy" / "ray" / name, package)
    wheels = os.environ.get("WHEELS")
    config = yaml.safe_load((PROJECT / "deploy" / "ray" / "local.yaml").read_text())
    config["provider"] |= {"head_ip": HEAD, "worker_ips": SCORERS}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(desk.folder / "id")}
    venv, install, environment = config["setup_commands"]
    assert "venv" in venv and "pip install" in install
    if wheels is None:
        config["setup_commands"] = [f"ln -sfn {sys.prefix} ~/rhoselect-env", environment]
    else:
        shutil.copytree(PROJECT / "dist" / "cluster", package, dirs_exist_ok=True)
        index = f"PIP_NO_INDEX=1 PIP_FIND_LINKS={Path(wheels).absolute()}"
        config["setup_commands"] = [venv, f"{index} {install}", environment]
    path = desk.folder / "local.yaml"
    path.write_text(yaml.safe_dump(config))
    desk.run("ray", "up", "--yes", path)
    return path


def made_config(desk: Desk, tiny_config: Path) -> Path:
    """A run's file with what a cluster needs."""
    config = desk.folder / "run.toml"
    more = (PROJECT / "deploy" / "ray" / "cluster.toml").read_text().replace("HEAD", HEAD)
    text = tiny_config.read_text().replace("steps = 20", f"steps = {STEPS}")
    config.write_text(text + more)
    return config


def train(
    desk: Desk, cluster: Path, config: Path, run: Path, words: str = "--workers 4"
) -> subprocess.Popen[str]:
    """The run of docs/deploy.md, started from the desk."""
    command = f"rhoctl train {config} {words} --run-dir {run}"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return desk.start("ray", "exec", cluster, command, **pipes)


def raylets(desk: Desk, host: str) -> int:
    """How many of Ray's node processes a host has."""
    output, _ = desk.on(host, "pgrep -c raylet").communicate(timeout=60)
    return int(output)


def finished(process: subprocess.Popen[str]) -> None:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, output + errors


def process_of(desk: Desk, actor: str) -> Path:
    """The folder in /proc of the one process of all hosts that is an actor of a class."""

    def is_it(path: Path) -> bool:
        with suppress(OSError):
            if not (path / "cmdline").read_bytes().startswith(f"ray::{actor}".encode()):
                return False
            while path.name not in ("0", str(desk.pid)):
                parent = re.search(r"^PPid:\s+(\d+)", (path / "status").read_text(), re.M)
                assert parent
                path = path.with_name(parent[1])
        return path.name == str(desk.pid)

    (found,) = filter(is_it, Path("/proc").glob("[0-9]*"))
    return found


def test_ranks_on_two_hosts(desk: Desk, cluster: Path, tiny_config: Path) -> None:
    """They give the bits of one process, and the end of the far one ends the run."""
    config, run = made_config(desk, tiny_config), desk.folder / "ranks"
    one = [word for key in RESULT for word in ("--set", key)]
    made("train", config, "--run-dir", desk.folder / "whole", *one)
    finished(train(desk, cluster, config, desk.folder / "split", f"--workers 2 {RANKS}"))
    assert hashes(desk.folder / "split") == hashes(desk.folder / "whole")

    process = train(desk, cluster, config, run, RANKS)
    until(lambda: bool(checkpoints(run)), process, UP_S)
    lead, far = process_of(desk, "TrainerActor"), process_of(desk, "RankActor")
    assert (lead / "ns" / "net").readlink() != (far / "ns" / "net").readlink()
    os.kill(int(far.name), signal.SIGKILL)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1, output + errors
    lost = r"rank 1 \(process \d+ on 10\.77\.0\.\d\) was killed.*; continue with: rhoctl train"
    assert re.search(lost, output + errors), output + errors
    finished(train(desk, cluster, config, run, f"--resume {RANKS}"))
    assert hashes(run) == hashes(desk.folder / "whole")


def test_a_rank_that_is_cut_off_ends_the_run(desk: Desk, cluster: Path, tiny_config: Path) -> None:
    config, run = made_config(desk, tiny_config), desk.folder / "cut"
    process = train(desk, cluster, config, run, f"{RANKS} --set cluster.rank_timeout_s=8")
    until(lambda: bool(checkpoints(run)), process, UP_S)
    far = process_of(desk, "RankActor").name
    enter = ["nsenter", f"--target={far}", "--uts", "hostname"]
    host = subprocess.run(enter, capture_output=True, text=True, check=True).stdout.strip()
    desk.run("ip", "link", "set", host, "down")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1, output + errors
    address = host.replace("host-", "10.77.0.")
    lost = rf"rank 1 \(process \d+ on {address}\) (did not answer for 8 s|was lost: its machine)"
    assert re.search(lost, output + errors), output + errors
    desk.run("ip", "link", "set", host, "up")
    desk.run("ray", "up", "--yes", "--restart-only", cluster)


def test_a_cluster_from_up_to_down(desk: Desk, cluster: Path, tiny_config: Path) -> None:
    config = made_config(desk, tiny_config)
    made("train", config, "--run-dir", desk.folder / "alone")
    first = desk.folder / "first"
    process = train(desk, cluster, config, first)
    until(lambda: bool(checkpoints(first)), process, UP_S)
    desk.on(SCORERS[1], "kill -9 -1").communicate(timeout=60)
    finished(process)
    assert hashes(first) == hashes(desk.folder / "alone")

    # Two CPUs a host: four scorers have a place again only when the lost host has rejoined.
    desk.run("ray", "up", "--yes", "--restart-only", cluster)
    again = desk.folder / "again"
    finished(train(desk, cluster, config, again))
    assert hashes(again) == hashes(desk.folder / "alone")

    desk.run("ray", "down", "--yes", cluster)
    deadline = time.monotonic() + DOWN_S
    while running := [host for host in (HEAD, *SCORERS) if raylets(desk, host)]:
        assert time.monotonic() < deadline, running
