"""Several `trainer.devices` on a Ray cluster, where each rank is an actor. On several machines:
test_hosts.py."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rhoselect import config as configuration
from rhoselect.devices import ranks_are_actors
from rhoselect.ranks.gloo import GlooGroup, Meeting
from rhoselect.runtime.links import introduced
from rhoselect.runtime.ray import placement
from servers import PASSWORD, free_port, tcp_server
from support import ended_well, hashes, made, rhoctl, start, until
from test_crew import KEYS, ended, modules, sets, started

__all__ = ["modules"]


@pytest.mark.parametrize("others", ["the token", "another token"])
def test_both_ends_of_a_link_know_the_token(others: str) -> None:
    tokens = [secrets.token_bytes(32)] * 2
    if others != "the token":
        tokens[1] = secrets.token_bytes(32)

    def meet(rank: int) -> tuple[int, int] | str:
        with ends[rank] as link:
            try:
                return introduced(link, tokens[rank], rank)
            except OSError as error:
                return str(error)

    ends = socket.socketpair()
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(meet, range(2)))
    refused = "the other end does not know the run's token"
    known = [(1, os.getpid()), (0, os.getpid())]
    assert found == (known if others == "the token" else [refused] * 2)


def test_who_says_what_it_was_told_does_not_know_the_token() -> None:
    ours, theirs = socket.socketpair()
    with ThreadPoolExecutor(1) as pool, ours, theirs:
        proven = pool.submit(introduced, ours, secrets.token_bytes(32), 0)
        for _ in range(2):
            theirs.sendall(theirs.recv(100))
        with pytest.raises(PermissionError, match="does not know the run's token"):
            proven.result()


def test_ranks_of_several_machines_meet_at_the_leads_address() -> None:
    """And listen at no other one."""
    server = socket.create_server(("127.0.0.2", 0))
    port = server.getsockname()[1]
    lead = Meeting("127.0.0.2", port, "127.0.0.2", server.detach())
    meetings = [lead, Meeting("127.0.0.2", port, "127.0.0.3")]
    with ThreadPoolExecutor(2) as pool:
        groups = list(pool.map(lambda rank: GlooGroup(rank, 2, meetings[rank], 20.0), range(2)))
        told = list(pool.map(lambda group: group.gathered(bytes([group.rank])), groups))
        assert told == [[b"\0", b"\1"]] * 2
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5.0)


def test_what_a_rank_takes(tiny_config: Path) -> None:
    """On a cluster each its own; on a cluster of one's own the lead's machine has them all."""
    keys = ["trainer.micro_batches=2", "trainer.devices=2", "trainer.threads=3"]
    config = configuration.load(tiny_config, [*keys, "cluster.address=auto"])
    assert ranks_are_actors(config)
    assert placement.trainer_options(config)["num_cpus"] == 3
    assert not ranks_are_actors(configuration.load(tiny_config, keys))


@pytest.fixture
def cluster(ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The keys of a cluster and of a queue's server."""
    port = free_port()
    monkeypatch.setenv("RHOSELECT_QUEUE_PASSWORD", PASSWORD)
    with tcp_server(tmp_path, port):
        yield f"cluster.address={ray_address} queue.url=redis://127.0.0.1:{port}"


@pytest.mark.matrix
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("workers", "mode"), [(0, "auto"), (2, "auto"), (2, "colocated")])
def test_actors_give_the_bits_of_one_process(
    cluster: str, tiny_config: Path, tmp_path: Path, workers: int, mode: str
) -> None:
    """Also if scorers are beside them, and all get their chunks from one queue."""
    made("train", tiny_config, "--run-dir", tmp_path / "alone", *sets(*KEYS))
    several = sets(*KEYS, *cluster.split(), "trainer.devices=2", f"cluster.mode={mode}")
    run = tmp_path / "run"
    made("train", tiny_config, "--run-dir", run, "--workers", str(workers), *several)
    assert hashes(run) == hashes(tmp_path / "alone")
    assert "rank 1 of process" in (run / "logs" / "rank-1.log").read_text()


@pytest.mark.matrix
@pytest.mark.timeout(240)
def test_actors_with_parts_of_a_model_give_the_bits_of_processes(
    cluster: str, tiny_config: Path, tmp_path: Path
) -> None:
    keys = [*KEYS, "trainer.devices=2", "trainer.parallel=fsdp"]
    made("train", tiny_config, "--run-dir", tmp_path / "here", *sets(*keys))
    made("train", tiny_config, "--run-dir", tmp_path / "run", *sets(*keys, *cluster.split()))
    assert hashes(tmp_path / "run") == hashes(tmp_path / "here")


@pytest.mark.matrix
@pytest.mark.timeout(240)
def test_ranks_learn_of_scorers_that_come(cluster: str, tiny_config: Path, tmp_path: Path) -> None:
    """All get shares of the chunks for as many, and the result stays."""
    run, keys = tmp_path / "run", [*cluster.split(), "trainer.devices=2", "cluster.mode=colocated"]
    command = ("train", tiny_config, "--run-dir", run, *sets(*KEYS, "trainer.steps=40", *keys))
    process = start(*command, "--workers", 1)
    until(lambda: any(run.glob("checkpoints/step-000000002*")), process)
    made("scale", run, "--workers", "3")
    ended_well(process)
    assert "scorers from now on: 3" in (run / "logs" / "rank-1.log").read_text()
    made("train", tiny_config, "--run-dir", tmp_path / "alone", *sets(*KEYS, "trainer.steps=40"))
    assert hashes(run) == hashes(tmp_path / "alone")


@pytest.mark.matrix
@pytest.mark.timeout(240)
def test_ranks_without_scorers_are_steered(cluster: str, tiny_config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = started(tiny_config, run, 2, 60, *cluster.split())
    made("pause", run)
    assert re.search(r"step \d+/16", made("status", run).out)
    refused = rhoctl("scale", run, "--workers", "2")
    assert (refused.code, "started with --workers 0" in refused.err) == (2, True), refused
    made("resume", run)
    ended_well(process)


@pytest.mark.matrix
@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", ["killed", "frozen", "asked to end"])
def test_the_end_of_an_actor_ends_the_run(
    cluster: str, tiny_config: Path, tmp_path: Path, fault: str
) -> None:
    """With one line that names the rank and the cause; and the run can go on."""
    run = tmp_path / "run"
    process = started(tiny_config, run, 2, 8 if fault == "frozen" else 60, *cluster.split())
    follower = int(
        re.findall(r"rank 1 of process (\d+)", (run / "logs" / "rank-1.log").read_text())[0]
    )
    number, what = {
        "killed": (signal.SIGKILL, r"was killed, or its machine was \("),
        "frozen": (signal.SIGSTOP, r"did not answer for 8 s"),
        "asked to end": (signal.SIGTERM, r"was asked to end \(SIGTERM\)"),
    }[fault]
    os.kill(follower, number)
    result = ended(process)
    assert result.code == 1, result
    said = result.out if fault == "asked to end" else result.err
    assert re.search(rf"rank 1 \(process {follower} on [\d.]+\) {what}", said), result
    assert f"continue with: rhoctl train --resume --run-dir {run}" in said
    slow = "; waiting"  # of a busy machine, where actors take seconds to start
    assert len([line for line in result.err.splitlines() if not line.endswith(slow)]) <= 1
    alone = tmp_path / "alone"
    made("train", "--resume", "--run-dir", run, *sets("trainer.devices=1"))
    made("train", tiny_config, "--run-dir", alone, *sets(*KEYS))
    assert hashes(run) == hashes(alone)
