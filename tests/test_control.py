"""A running run, seen and steered from outside through the real commands."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rhoselect.cli import dashboard
from rhoselect.inputs import open_inputs
from rhoselect.metrics import Metrics
from rhoselect.protos import control_pb2 as pb
from rhoselect.protos.control_pb2_grpc import ControlStub
from rhoselect.queue.memory import MemoryQueue
from rhoselect.runtime.ray.actors import Endpoints, TrainerActor
from rhoselect.service.connect import Target, control_of
from rhoselect.snapshots.local import LocalStore
from rhoselect.trainer.build import build_trainer
from rhoselect.trainer.runfolder import RunFolder, stored_config
from servers import free_port
from support import (
    DEADLINE_S,
    Result,
    behind_proxy,
    ended_well,
    hashes,
    made,
    rhoctl,
    start,
    until,
)
from warm import Process

STEPS = 400
SETS = ["--set", f"trainer.steps={STEPS}"]


@pytest.fixture(scope="module")
def undisturbed(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    made("train", tiny_config, "--run-dir", run, *SETS)
    return hashes(run)


@contextmanager
def running(config: Path, run: Path, workers: int = 0, *more: str) -> Iterator[Process]:
    """A run whose trainer is up, to be steered; it ends with the block at the latest."""
    process = start("train", config, "--run-dir", run, "--workers", workers, *SETS, *more)
    try:
        until((run / "control.json").exists, process)
        until(lambda: rhoctl("checkpoint", run).code == 0, process)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


MISTAKES = [
    *(["trian"], ["--help"], ["train", "--wrokers", "2"], ["train", "no.toml"]),
    *(["train", "--set", "nope.x=1"], ["serve", "no.toml"], ["plan", "no.toml"], ["plan"]),
    *(["data", "import", "idx"], ["data", "info"], ["il", "fit"], ["svp", "fit", "--out", "x"]),
    *(["report"], ["export", "x", "--out", "x.csv"], ["experiment", "run", "none"]),
    *(["doctor", "no.toml"], ["status", "x:1"], ["queue", "peek"], ["scorer"]),
]


def test_a_look_and_a_mistake_do_not_wait_for_imports() -> None:
    """To import torch, Ray, pyarrow and matplotlib takes seconds."""
    code = (
        "import sys; from rhoselect.cli.main import run\n"
        f"codes = [run(words) for words in {MISTAKES!r}]\n"
        "late = {'torch', 'ray', 'pyarrow', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'{codes} {late}' if late or codes.count(2) < len(codes) - 2 else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def ask(command: str, run: Path | str, *arguments: str | int) -> Any:
    """What a command says of a run as JSON."""
    return json.loads(made(*command.split(), run, *map(str, arguments), "--json").out)


def went_on(run: Path, step: int) -> Callable[[], bool]:
    return lambda: ask("status", run)["step"] > step


def resumed(run: Path) -> tuple[str, str]:
    """The hashes of a stopped run that then went on to its end."""
    assert not (run / "summary.json").exists()
    assert not (run / "control.json").exists()
    assert not (run / "logs" / "control.token").exists()
    made("train", "--resume", "--run-dir", run)
    evaluated = [json.loads(line)["step"] for line in (run / "eval.jsonl").read_text().splitlines()]
    assert evaluated == list(range(10, STEPS + 1, 10)), "nothing twice, nothing missing"
    return hashes(run)


@dataclass(frozen=True)
class Paused:
    """A run of one process that waits at the end of a step."""

    run: Path
    step: int
    pid: int


@pytest.fixture(scope="module")
def paused(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paused]:
    run = tmp_path_factory.mktemp("paused") / "run"
    with running(tiny_config, run) as process:
        yield Paused(run, ask("pause", run)["step"], process.pid)
        made("stop", run)
        ended_well(process)


@pytest.mark.timeout(240)
def test_pause_resume_stop_and_go_on(
    tiny_config: Path, tmp_path: Path, undisturbed: tuple[str, str]
) -> None:
    run = tmp_path / "run"
    with running(tiny_config, run) as process:
        step = ask("pause", run)["step"]
        made("resume", run)
        until(went_on(run, step), process)
        stopped = ask("stop", run)
        out, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (0, "")
    how = f"rhoctl train --resume --run-dir {run}"
    assert f"stopped at step {stopped['step']}; continue with: {how}" in out.splitlines()
    assert step < stopped["step"] < STEPS and Path(stopped["path"]).is_file()
    assert resumed(run) == undisturbed


@pytest.mark.long
@pytest.mark.timeout(240)
def test_scorers_come_and_go(
    tiny_config: Path, tmp_path: Path, undisturbed: tuple[str, str]
) -> None:
    """Also: what the queue shows is what is then trained on, and a killed scorer is counted.

    The trainer scores nothing, lest it holds a part of the window that it is to wait for.
    """
    run = tmp_path / "run"

    def workers() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ask("status", run)["workers"]
        return found

    def sessions() -> list[Path]:
        return list(Path("/tmp").glob(f"rhoselect-{os.getuid()}/*/session_*_{process.pid}"))

    with running(tiny_config, run, 2, "--set", "trainer.scores=false") as process:
        assert sessions()
        step = ask("pause", run)["step"]
        until(lambda: len(ask("queue peek", run, "-k", 100)["points"]) == 32, process)
        best = ask("queue peek", run, "-k", 8)
        assert best["window"] == best["version"] == step

        made("scale", run, "--workers", "3")
        until(lambda: [w["state"] for w in workers()] == ["running"] * 3, process)
        os.kill(workers()[0]["pid"], signal.SIGKILL)
        until(lambda: [w["restarts"] for w in workers()] == [1, 0, 0], process)
        made("resume", run)
        until(went_on(run, step + 5), process)
        step = ask("pause", run)["step"]
        until(lambda: workers()[2]["scored_points"] > 0, process)
        made("scale", run, "--workers", "1")
        assert len(workers()) == 1
        made("resume", run)
        until(went_on(run, step), process)
        made("pause", run)
        made("scale", run, "--workers", "0")
        made("resume", run)
        out, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (0, "")
    assert "raylet" not in out, "Ray's own words about the killed scorer"
    assert not sessions(), "what Ray kept went with it"
    assert hashes(run) == undisturbed
    rows = pq.read_table(run / "steps.parquet", columns=["indices"]).to_pylist()
    assert [point["index"] for point in best["points"]] == rows[best["window"]]["indices"]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("workers", "number"),
    [
        (0, signal.SIGTERM),
        pytest.param(2, signal.SIGINT, marks=pytest.mark.long),
        pytest.param(2, signal.SIGHUP, marks=pytest.mark.matrix),
    ],
)
def test_a_signal_stops_in_order(
    tiny_config: Path,
    tmp_path: Path,
    undisturbed: tuple[str, str],
    workers: int,
    number: signal.Signals,
) -> None:
    """To the whole process group, as a terminal sends Ctrl-C."""
    run = tmp_path / "run"
    with running(tiny_config, run, workers) as process:
        made("pause", run)
        os.killpg(process.pid, number)
        out, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (128 + number, "")
    assert "continue with: rhoctl train --resume" in out
    assert resumed(run) == undisturbed


IN_TERMINAL = """
import os, sys
terminal = os.open(sys.argv[1], os.O_RDWR)  # a session without a terminal gets this one
for number in (0, 1, 2):
    os.dup2(terminal, number)
os.close(terminal)
"""
UNDER_NOHUP = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
COMMAND = """
import sys
from rhoselect.cli.main import run
sys.exit(run(sys.argv[2:]))
"""


@pytest.mark.timeout(240)
def test_a_terminal_that_closes_stops_in_order(tiny_config: Path, tmp_path: Path) -> None:
    """After that each write to it is an error."""
    run = tmp_path / "run"
    ours, its = os.openpty()
    arguments = ("train", str(tiny_config), "--run-dir", str(run), *SETS)
    process = Process("-c", IN_TERMINAL + COMMAND, os.ttyname(its), *arguments)
    os.close(its)
    until((run / "control.json").exists, process)
    step = ask("pause", run)["step"]
    os.close(ours)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + signal.SIGHUP
    assert (run / "checkpoints" / f"step-{step:09d}.safetensors").exists(), "that of its last step"
    assert not (run / "control.json").exists()


@pytest.mark.timeout(240)
def test_under_nohup_a_run_goes_on(tiny_config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ("train", str(tiny_config), "--run-dir", str(run), *SETS)
    process = Process("-c", UNDER_NOHUP + COMMAND, "", *arguments)
    until((run / "control.json").exists, process)
    step = ask("pause", run)["step"]
    os.killpg(process.pid, signal.SIGHUP)
    made("resume", run)
    until(went_on(run, step), process)
    made("stop", run)
    ended_well(process)


@pytest.mark.timeout(240)
def test_a_second_signal_ends_at_once(tiny_config: Path, tmp_path: Path) -> None:
    """The first one comes while Ray is still on its way."""
    run = tmp_path / "run"
    process = start("train", tiny_config, "--run-dir", run, "--workers", 1, *SETS)
    until(run.exists, process)
    process.terminate()
    assert "SIGTERM: stopping" in process.stdout.readline()
    process.terminate()
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == -signal.SIGTERM
    assert not (run / "summary.json").exists()


WHILE_RAY_JOINS = """
import os, signal
from ray._private import worker
connect = worker.connect
def connect_and_be_stopped(*arguments, **options):
    connect(*arguments, **options)
    os.kill(os.getpid(), signal.SIGTERM)
worker.connect = connect_and_be_stopped
"""


@pytest.mark.matrix
@pytest.mark.timeout(240)
def test_a_signal_while_ray_joins_stops_in_order(tiny_config: Path, tmp_path: Path) -> None:
    """Ray's own handlers would end the process: in C++ with a trace, in Python without a line."""
    run = tmp_path / "run"
    arguments = ("train", str(tiny_config), "--run-dir", str(run), "--workers", "1", *SETS)
    process = Process("-c", WHILE_RAY_JOINS + COMMAND, "", *arguments)
    out, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (128 + signal.SIGTERM, "")
    assert f"continue with: rhoctl train --resume --run-dir {run}" in out
    assert not (run / "summary.json").exists()


def test_a_paused_run_stands_still_and_answers(paused: Paused) -> None:
    before = ask("status", paused.run)
    made_at = ask("checkpoint", paused.run)  # by the trainer itself, which has taken no step since
    assert made_at["step"] == paused.step and Path(made_at["path"]).is_file()
    after = ask("status", paused.run)
    assert before["step"] == after["step"] == paused.step
    assert before["wall_seconds"] == after["wall_seconds"], "a pause is not the run's time"
    assert after["paused"] and after["steps"] == STEPS and after["workers"] == []
    assert sum(count["points"] for count in after["staleness_counts"]) == 8 * paused.step
    assert ask("queue peek", paused.run)["points"] == [], "one process scores when it needs scores"


def test_one_process_has_no_scorers_to_scale(paused: Paused) -> None:
    refused = rhoctl("scale", paused.run, "--workers", "2")
    assert refused.code == 2 and "--workers 0" in refused.err
    assert refused.err.count("\n") == 1


def test_a_stranger_gets_nothing(paused: Paused, tmp_path: Path) -> None:
    entry = json.loads((paused.run / "control.json").read_text())
    token_file = Path(entry["token_file"])
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    assert token_file.read_text().strip() not in (paused.run / "control.json").read_text()
    with grpc.insecure_channel(entry["address"]) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            ControlStub(channel).Stop(pb.StopRequest(), timeout=10.0)
        assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
    forged = tmp_path / "token"
    forged.write_text("x" * 32)
    refused = rhoctl("stop", entry["address"], "--token-file", forged)
    assert refused.code == 2 and "token" in refused.err and refused.err.count("\n") == 1
    known = rhoctl("status", entry["address"], "--token-file", token_file, "--json")
    assert json.loads(known.out)["step"] == paused.step, "nothing came of it"


def test_a_proxy_is_not_asked_for_this_machine(
    paused: Paused, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind_proxy(monkeypatch)
    assert ask("status", paused.run)["step"] == paused.step
    assert ask("checkpoint", paused.run)["step"] == paused.step
    entry = json.loads((paused.run / "control.json").read_text())
    assert ask("status", entry["address"], "--token-file", entry["token_file"])["paused"]


def test_a_run_that_lives_is_not_resumed(paused: Paused) -> None:
    """Its trainer would be fenced, and end."""
    generations = list((paused.run / "generations").iterdir())
    for command in ("train", "serve"):
        refused = rhoctl(command, "--resume", "--run-dir", paused.run)
        assert refused.code == 2 and refused.err.count("\n") == 1
    refused = rhoctl("train", "--resume", "--run-dir", paused.run)
    assert f"process {paused.pid} on {socket.gethostname()} runs it" in refused.err
    assert list((paused.run / "generations").iterdir()) == generations
    assert ask("status", paused.run)["step"] == paused.step


GONE = {"address": f"127.0.0.1:{free_port()}"}
LOOKS: list[tuple[dict[str, Any] | None, str]] = [
    (GONE, "cannot be reached"),
    ({"run_id": "another"}, "another run answers"),
    ({"pid": "one"}, "cannot be read"),
    (None, "no control.json"),
]
"""What stands in control.json instead, and what is then said of a run that may have ended."""


def left(paused: Paused, folder: Path, content: dict[str, Any] | None) -> list[Result]:
    """What commands say of a run folder with this content of control.json."""
    entry = json.loads((paused.run / "control.json").read_text())
    (folder / "control.json").unlink(missing_ok=True)
    if content is not None:
        (folder / "control.json").write_text(json.dumps({**entry, **content}))
    found = [rhoctl(*command, folder) for command in (["status"], ["stop"], ["queue", "peek"])]
    assert all(result.err.count("\n") == 1 for result in found)
    return found


@pytest.mark.parametrize(("content", "said"), LOOKS)
def test_a_run_that_lives_is_not_called_dead(
    paused: Paused, tmp_path: Path, content: dict[str, Any] | None, said: str
) -> None:
    """Whatever keeps a command from reaching it. The folder's lock is the living run's."""
    (tmp_path / "lock").symlink_to(paused.run / "lock")
    for result in left(paused, tmp_path, content):
        assert result.code in (1, 2), result
        assert f"process {paused.pid} on" in result.err
        assert "--resume" not in result.err and "remove" not in result.err
        assert content is None or said in result.err


@pytest.mark.parametrize(("content", "said"), LOOKS)
def test_what_a_killed_run_left_is_not_taken_for_a_run(
    paused: Paused, tmp_path: Path, content: dict[str, Any] | None, said: str
) -> None:
    """Where the lock cannot tell, the advice begins with "if"."""
    for result in left(paused, tmp_path, content):
        assert result.code in (1, 2) and said in result.err, result
        assert "continue with: rhoctl train --resume" in result.err
        assert content is None or "if its process has ended" in result.err
    (tmp_path / "lock").write_text(f"123 {socket.gethostname()}\n")
    for result in left(paused, tmp_path, content):
        assert result.code == (1 if said == "cannot be read" else 2), result
        assert content is None or "process 123 on" in result.err
        assert "continue with: rhoctl train --resume" in result.err


def test_a_run_on_another_machine_is_asked_there(paused: Paused, tmp_path: Path) -> None:
    """Its loopback is not ours: another run may answer here, and would get the token."""
    (tmp_path / "lock").write_text("123 elsewhere\n")
    for result in left(paused, tmp_path, {}):
        assert result.code == 1 and "process 123 on elsewhere" in result.err
        assert "ask there" in result.err


def test_nowhere_is_no_run(tmp_path: Path) -> None:
    nowhere = rhoctl("status", tmp_path / "nowhere")
    assert nowhere.code == 2 and nowhere.err.count("\n") == 1


@pytest.mark.timeout(240)
def test_watch_goes_along_until_the_run_ends(tiny_config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with running(tiny_config, run) as process:
        made("pause", run)
        watching = start("watch", run, "--json", "--interval-s", "0.1")
        first = json.loads(watching.stdout.readline())
        made("resume", run)
        out, errors = watching.communicate(timeout=DEADLINE_S)
        ended_well(process)
    assert (watching.returncode, errors) == (0, "")
    steps = [first["step"], *(json.loads(line)["step"] for line in out.splitlines())]
    assert steps == sorted(steps) and steps[-1] > steps[0]


def test_the_dashboard_shows_a_run(paused: Paused) -> None:
    with control_of(Target(str(paused.run))) as stub:
        look = stub.Status(pb.StatusRequest()).status
    look.workers.add(slot=0, state=pb.WORKER_STATE_SILENT, pid=4321, restarts=7)
    screen = Console(file=io.StringIO(), width=120)
    screen.print(dashboard.picture(look, None))
    assert isinstance(screen.file, io.StringIO)
    shown = screen.file.getvalue()
    for expected in (
        f"step {paused.step}/{STEPS}",
        "paused",
        "<= 0",
        "100%",
        "silent",
        "4321",
        "7",
    ):
        assert expected in shown


def test_a_pause_has_no_rates(paused: Paused) -> None:
    """Scorers go on for a while, and the run's clock stands still."""
    with control_of(Target(str(paused.run))) as stub:
        look = stub.Status(pb.StatusRequest()).status
    look.workers.add(slot=0, state=pb.WORKER_STATE_RUNNING, pid=4321, scored_points=64)
    later = pb.RunStatus()
    later.CopyFrom(look)
    later.workers[0].scored_points = 128
    screen = Console(file=io.StringIO(), width=120)
    screen.print(dashboard.picture(later, look))
    assert isinstance(screen.file, io.StringIO)
    for name in ("steps/s", "points/s", "trainer waits"):
        assert re.search(rf"{name} +-", screen.file.getvalue()), name
    assert re.search(r"4321 +0 +-", screen.file.getvalue())


def test_a_resumed_run_is_where_its_checkpoint_is(paused: Paused) -> None:
    """Also before its trainer is up, which takes seconds."""
    ask("checkpoint", paused.run)
    folder = RunFolder.newest(paused.run)
    config = stored_config(paused.run)
    endpoints = Endpoints("", None, paused.run, {})
    trainer = TrainerActor(config.model_dump_json(), folder, endpoints, 1)
    assert trainer.status().step == paused.step
    inputs = open_inputs(config)
    built = build_trainer(inputs, folder, MemoryQueue(30.0), LocalStore(), Metrics(), workers=0)
    assert built.status.step == paused.step


def test_the_dashboard_fits_into_80_columns_and_24_lines() -> None:
    """Also of many scorers, of which those that do not run are shown."""
    look = pb.RunStatus(run_dir=f"/very/long/{'path/' * 20}my-run", generation=3, paused=True)
    look.step, look.steps, look.scored_points = 123_456, 1_000_000, 10**10
    look.loss, look.lag, look.wall_seconds = 1.234, 4, 100.0
    look.metric, look.metric_name = 0.8765, "accuracy"
    for steps in (0, 1, 2, 4, 8):
        look.staleness_counts.add(up_to_steps=steps, points=10**9)
    look.staleness_counts.add(points=10**9)
    for name in ("windows", "waiting", "leased", "points", "late", "rejected", "reclaimed"):
        setattr(look.queue, name, 10**6)
    for slot in range(64):
        state = pb.WORKER_STATE_SILENT if slot in (7, 60) else pb.WORKER_STATE_RUNNING
        look.workers.add(slot=slot, state=state, pid=4_000_000 + slot, scored_points=10**8)
    screen = Console(file=io.StringIO(), width=80, height=24)
    screen.print(dashboard.picture(look, None, screen.height))
    assert isinstance(screen.file, io.StringIO)
    lines = screen.file.getvalue().splitlines()
    assert len(lines) <= screen.height
    assert max(map(len, lines)) <= screen.width
    assert "my-run  generation 3" in lines[0]
    [facts] = [line for line in lines if "test accuracy 0.8765" in line]
    assert "windows open 1000000" in facts and "staleness selected" in facts
    assert sum(map(int, re.findall(r"(\d+)%", "".join(lines[4:11])))) == 100
    assert sum("silent" in line for line in lines) == 2
    assert any(line.strip("│ ").startswith("and 5") for line in lines)
    assert "…" not in "".join(lines)


@given(st.lists(st.integers(0, 10**12), min_size=1).filter(any))
def test_shares_add_up_to_100(counts: list[int]) -> None:
    shares = dashboard.percents(counts)
    assert sum(shares) == 100
    assert all(abs(s - 100 * c / sum(counts)) < 1 for s, c in zip(shares, counts, strict=True))
