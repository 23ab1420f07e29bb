"""Real processes, killed for real: the run ends with the two hashes of the undisturbed one.

Where not the command itself is killed, it runs in a thread here; its actors are processes of the
session's Ray cluster.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest
import redis

from servers import PASSWORD, free_port, tcp_server
from support import Result, made, rhoctl

STEPS = 400
SHORT = 200
DEADLINE_S = 90.0
MODES = {
    "lag 0": [],
    "shortlists by scorers": ["selection.lag=1", "selection.rescore=scorers"],
    "auto": ["selection.lag=auto", "selection.audit_every=40"],
    "stream": ["selection.mode=stream"],
}

pytestmark = pytest.mark.timeout(240)


def flags(*settings: str) -> list[str]:
    values = ["trainer.checkpoint_every=20", f"queue.timeout_s={DEADLINE_S}", *settings]
    return [word for value in values for word in ("--set", value)]


def start(*arguments: str | Path | int) -> Future[Result]:
    """``rhoctl`` in a thread of its own."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(rhoctl(*map(str, arguments)))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def until(happened: Callable[[], bool], goes_on: Callable[[], bool]) -> None:
    """Look again and again until something happened in a run that goes on meanwhile."""
    deadline = time.monotonic() + DEADLINE_S
    while not happened():
        assert goes_on(), "ended early"
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.01)


def reached(run: Path, step: int, future: Future[Result]) -> None:
    """Wait for a checkpoint of ``step`` or later."""
    until(lambda: newest_step(run) >= step, lambda: not future.done())


def ended_well(future: Future[Result]) -> None:
    result = future.result(timeout=DEADLINE_S)
    assert result.code == 0, result.err


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*"))


def newest_step(run: Path) -> int:
    return max((int(p.stem.removeprefix("step-")) for p in checkpoints(run)), default=0)


def starts(run: Path, actor: str) -> list[int]:
    """Process numbers that an actor has had, from its log."""
    log = run / "logs" / f"{actor}.log"
    return [int(n) for n in re.findall(r"process (\d+) starts", log.read_text())]


def hashes(run: Path) -> tuple[str, str]:
    summary = json.loads((run / "summary.json").read_text())
    return summary["selected_sha256"], summary["weights_sha256"]


@pytest.fixture(scope="module")
def undisturbed(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    made("train", tiny_config, "--run-dir", run, *flags(f"trainer.steps={STEPS}"))
    return hashes(run)


def test_killed_scorer_comes_back_in_its_slot(
    ray_session: None, tiny_config: Path, tmp_path: Path, undisturbed: tuple[str, str]
) -> None:
    """With a single scorer the run can only go on if the slot is filled again."""
    run = tmp_path / "run"
    steps = flags(f"trainer.steps={STEPS}")
    future = start("train", tiny_config, "--run-dir", run, "--workers", 1, *steps)
    reached(run, 20, future)
    os.kill(starts(run, "scorer-0")[0], signal.SIGKILL)
    ended_well(future)
    assert len(starts(run, "scorer-0")) == 2
    assert hashes(run) == undisturbed


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_outlives_a_scorer_and_its_trainer(
    ray_session: None, tiny_config: Path, tmp_path: Path, mode: str
) -> None:
    run = tmp_path / "run"
    settings = flags(f"trainer.steps={SHORT}", *MODES[mode])
    future = start("train", tiny_config, "--run-dir", run, "--workers", 2, *settings)
    reached(run, 20, future)
    os.kill(starts(run, "scorer-1")[0], signal.SIGKILL)
    reached(run, newest_step(run) + 20, future)
    os.kill(starts(run, "trainer")[0], signal.SIGKILL)
    result = future.result(timeout=DEADLINE_S)
    assert result.code == 1
    assert "--resume" in result.err
    assert "Traceback" not in result.err
    assert not (run / "summary.json").exists()
    assert checkpoints(run), "the last checkpoint survives"

    made("train", "--resume", "--run-dir", run, "--workers", 1)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == SHORT
    assert summary["exact"] == (mode not in ("auto", "stream"))
    if summary["exact"]:
        made("train", tiny_config, "--run-dir", tmp_path / "alone", *settings)
        assert hashes(run) == hashes(tmp_path / "alone")


@pytest.mark.parametrize("lag", [0, 1])
def test_whole_command_killed_and_resumed(tiny_config: Path, tmp_path: Path, lag: int) -> None:
    run = tmp_path / "run"
    settings = flags(f"trainer.steps={STEPS}", f"selection.lag={lag}")
    command = [sys.executable, "-m", "rhoselect.launch.cli", "train", str(tiny_config)]
    with subprocess.Popen([*command, "--run-dir", str(run), *settings]) as process:
        until(lambda: bool(checkpoints(run)), lambda: process.poll() is None)
        process.kill()
    assert not (run / "summary.json").exists()
    made("train", tiny_config, "--resume", "--run-dir", run, *settings)
    made("train", tiny_config, "--run-dir", tmp_path / "undisturbed", *settings)
    assert hashes(run) == hashes(tmp_path / "undisturbed")
    rows = [json.loads(line)["step"] for line in (run / "eval.jsonl").read_text().splitlines()]
    assert rows == list(range(10, STEPS + 1, 10)), "nothing twice, nothing missing"


def test_run_goes_on_when_every_scorer_freezes(
    ray_session: None, tiny_config: Path, tmp_path: Path, undisturbed: tuple[str, str]
) -> None:
    """A frozen scorer is alive to Ray and is not replaced: the trainer scores by itself."""
    run = tmp_path / "run"
    settings = flags(f"trainer.steps={STEPS}", "queue.lease_s=1.0")
    future = start("train", tiny_config, "--run-dir", run, "--workers", 1, *settings)
    reached(run, 20, future)
    [scorer] = starts(run, "scorer-0")
    os.kill(scorer, signal.SIGSTOP)
    try:
        ended_well(future)
    finally:
        os.kill(scorer, signal.SIGCONT)
    assert hashes(run) == undisturbed


@pytest.mark.parametrize("mode", ["lag 0", "stream"])
def test_queue_flushed(
    ray_session: None,
    tiny_config: Path,
    tmp_path: Path,
    undisturbed: tuple[str, str],
    mode: str,
) -> None:
    """Again and again, wherever trainer and scorers just are: the queue holds nothing durable."""
    run, port = tmp_path / "run", free_port()
    with tcp_server(tmp_path, port) as url, redis.Redis.from_url(url) as client:
        secret = tmp_path / "secret"
        secret.write_text(PASSWORD)
        server = (f"queue.url=redis://127.0.0.1:{port}", f"queue.password_file={secret}")
        settings = flags(f"trainer.steps={STEPS}", *MODES[mode], *server)
        future = start("train", tiny_config, "--run-dir", run, "--workers", 2, *settings)
        for flushes in range(1, 4):
            reached(run, 20 * flushes, future)
            client.flushall()
        ended_well(future)
    summary = json.loads((run / "summary.json").read_text())
    if summary["exact"]:
        assert hashes(run) == undisturbed
    else:
        assert summary["max_staleness_steps"] <= 16, "stream.max_age"
