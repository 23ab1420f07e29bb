"""``rhoctl scorer``: scorers outside a run's cluster, in processes of their own, over real gRPC."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rhoselect.errors import FencedError, ServiceError
from rhoselect.protos import snapshots_pb2 as pb
from rhoselect.protos.snapshots_pb2_grpc import SnapshotsStub
from rhoselect.service.channel import open_channel
from rhoselect.service.connect import Target, channel_of
from rhoselect.service.security import Security
from rhoselect.snapshots.grpc import GrpcStore
from servers import PASSWORD, free_port, tcp_server
from support import DEADLINE_S, behind_proxy, ended_well, hashes, made, rhoctl, start, until
from warm import Process

STEPS = 150

pytestmark = pytest.mark.long  # a run of its own goes on all the while


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@dataclass(frozen=True)
class Paused:
    """A run of one worker, and the words that a scorer needs for its queue."""

    run: Path
    process: Process
    password: list[str]


@pytest.fixture(scope="module")
def paused(
    ray_address: str, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Paused]:
    """On a real server. The tests leave it paused but for the last one, which sees it end."""
    folder, port = tmp_path_factory.mktemp("outside"), free_port()
    run, secret = folder / "run", folder / "secret"
    secret.write_text(PASSWORD)
    with tcp_server(folder, port):
        server = (f"queue.url=redis://127.0.0.1:{port}", f"queue.password_file={secret}")
        where = (*server, f"cluster.address={ray_address}")
        flags = words(f"trainer.steps={STEPS}", "queue.lease_s=1.0", *where)
        process = start("train", tiny_config, "--workers", 1, "--run-dir", run, *flags)
        until(lambda: (run / "control.json").exists(), process)
        made("pause", run)
        yield Paused(run, process, words(f"queue.password_file={secret}"))
        if process.poll() is None:
            made("resume", run)
        ended_well(process)


def test_strangers_and_wrong_inputs_are_refused(paused: Paused, tmp_path: Path) -> None:
    run = paused.run
    entry = json.loads((run / "control.json").read_text())
    stranger = rhoctl("scorer", entry["address"])
    assert (stranger.code, "token" in stranger.err) == (2, True)
    changed = rhoctl("scorer", run, "--set", "selection.chunk=32")
    assert (changed.code, "selection.chunk" in changed.err) == (2, True)
    told = rhoctl("scorer", run)  # the run names a file, which is not read here for that
    assert (told.code, "refuses the user name or password" in told.err) == (2, True)
    missing = rhoctl("scorer", run, "--set", f"data.path={tmp_path / 'none'}")
    assert (missing.code, "Traceback" in missing.err) == (2, False)
    with channel_of(Target(str(run))) as channel:
        attached = SnapshotsStub(channel).Attach(pb.AttachRequest())
        session = attached.session
        old = GrpcStore(channel, session.run_id, session.generation - 1)
        with pytest.raises(FencedError, match="attach again"):
            old.load(0, lambda pieces: None, timeout_s=0)
    with open_channel(entry["address"], Security()) as channel:
        store = GrpcStore(channel, session.run_id, session.generation)
        with pytest.raises(ServiceError, match="UNAUTHENTICATED"):
            store.load(0, lambda pieces: None, timeout_s=0)


def test_machines_that_give_other_bits_are_refused_and_the_run_goes_on(paused: Paused) -> None:
    """A scorer outside, and one that is added to the cluster: its slot says why."""
    run, process = paused.run, paused.process
    log, file = run / "logs" / "scorer-0.log", run / "hardware" / "1.json"
    until(lambda: log.exists() and "is ready" in log.read_text(), process)
    first = json.loads(file.read_text())
    for name, value in (("threads", "7"), ("probe", "77" * 32)):
        file.write_text(json.dumps({**first, "facts": {**first["facts"], name: value}}))
        refused = rhoctl("scorer", run, *paused.password)
        assert (refused.code, refused.err.count("\n")) == (2, 1), refused.err
        assert f"this machine: got {name} '{first['facts'][name]}', allowed" in refused.err
        assert f"{name} '{value}'" in refused.err
    made("scale", run, "--workers", 2)

    def slots() -> list[dict[str, Any]]:
        return json.loads(made("status", run, "--json").out)["workers"]

    until(lambda: slots()[1]["state"] == "refused", process)
    assert re.match(r"scorer 1 \(process \d+ on \S+\): got probe", slots()[1]["refused"])
    assert slots()[0]["state"] == "running" and slots()[0]["refused"] is None
    assert slots()[1]["refused"] in made("status", run).out
    made("scale", run, "--workers", 1)
    file.write_text(json.dumps(first))
    made("scale", run, "--workers", 2)
    until(lambda: slots()[1]["state"] == "running", process)


def test_they_come_and_die_and_the_result_is_the_same(
    paused: Paused, tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine with a proxy, of which nothing on loopback takes notice."""
    behind_proxy(monkeypatch)
    run = paused.run
    mortal, other = (start("scorer", run, "--json", *paused.password) for _ in range(2))
    slots = []
    for process in (mortal, other):
        slots.append(json.loads(process.stdout.readline())["slot"])
    assert len(set(slots)) == 2
    made("resume", run)
    until(lambda: len(list((run / "checkpoints").glob("step-*"))) > 1, other)
    mortal.kill()
    out, err = other.communicate(timeout=DEADLINE_S)
    assert other.returncode == 0, err
    assert json.loads(out)["scored_points"] > 0
    mortal.communicate()
    ended_well(paused.process)
    made("train", tiny_config, "--run-dir", tmp_path / "alone", *words(f"trainer.steps={STEPS}"))
    assert hashes(run) == hashes(tmp_path / "alone")


def test_a_run_in_one_process_has_no_place_for_them(tiny_config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start("train", tiny_config, "--run-dir", run, *words("trainer.steps=20000"))
    until(lambda: (run / "control.json").exists(), process)
    refused = rhoctl("scorer", run)
    assert (refused.code, "--workers" in refused.err) == (2, True)
    made("stop", run)
    ended_well(process)
