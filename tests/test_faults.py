"""Real processes, killed for real: the run ends with the two hashes of the undisturbed one."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
import redis

from servers import PASSWORD, free_port, tcp_server
from support import DEADLINE_S, ended_well, hashes, made, start, until

STEPS = 400
SHORT = 120


def sets(lag: int) -> list[str]:
    values = [f"trainer.steps={STEPS}", "trainer.checkpoint_every=20", f"selection.lag={lag}"]
    return [word for value in values for word in ("--set", value)]


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*"))


def newest_step(run: Path) -> int:
    return max((int(p.stem.removeprefix("step-")) for p in checkpoints(run)), default=0)


def starts(run: Path, actor: str) -> list[int]:
    """Process numbers that an actor has had, from its log."""
    log = run / "logs" / f"{actor}.log"
    return [int(n) for n in re.findall(r"process (\d+) starts", log.read_text())]


@pytest.fixture(scope="module", params=[0, 1], ids=["lag 0", "lag 1"])
def lag(request: pytest.FixtureRequest) -> int:
    return int(request.param)


once = pytest.mark.parametrize("lag", [0], indirect=True, ids=["lag 0"])


@pytest.fixture(scope="module")
def undisturbed(
    tiny_config: Path, lag: int, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    made("train", tiny_config, "--run-dir", run, *sets(lag))
    return hashes(run)


@pytest.mark.timeout(240)
def test_scorer_killed(
    tiny_config: Path, tmp_path: Path, lag: int, undisturbed: tuple[str, str]
) -> None:
    run = tmp_path / "run"
    process = start("train", tiny_config, "--run-dir", run, "--workers", 2, *sets(lag))
    until(lambda: bool(checkpoints(run)), process)
    os.kill(starts(run, "scorer-1")[0], signal.SIGKILL)
    ended_well(process)
    assert hashes(run) == undisturbed


@once
@pytest.mark.timeout(240)
def test_killed_scorer_comes_back_in_its_slot(
    tiny_config: Path, tmp_path: Path, lag: int, undisturbed: tuple[str, str]
) -> None:
    """With a single scorer the run can only end if the slot is filled again."""
    run = tmp_path / "run"
    process = start("train", tiny_config, "--run-dir", run, "--workers", 1, *sets(lag))
    until(lambda: bool(checkpoints(run)), process)
    os.kill(starts(run, "scorer-0")[0], signal.SIGKILL)
    ended_well(process)
    assert len(starts(run, "scorer-0")) == 2
    assert hashes(run) == undisturbed


@pytest.mark.timeout(240)
def test_trainer_killed_and_resumed(
    tiny_config: Path, tmp_path: Path, lag: int, undisturbed: tuple[str, str]
) -> None:
    run = tmp_path / "run"
    process = start("train", tiny_config, "--run-dir", run, "--workers", 2, *sets(lag))
    until(lambda: len(checkpoints(run)) > 1, process)
    os.kill(starts(run, "trainer")[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert not (run / "summary.json").exists()
    assert checkpoints(run), "the last checkpoint survives"

    resumed = start("train", "--resume", "--run-dir", run, "--workers", 1)
    ended_well(resumed)
    assert hashes(run) == undisturbed


@pytest.mark.timeout(240)
def test_whole_command_killed_and_resumed(
    tiny_config: Path, tmp_path: Path, lag: int, undisturbed: tuple[str, str]
) -> None:
    run = tmp_path / "run"
    process = start("train", tiny_config, "--run-dir", run, *sets(lag))
    until(lambda: bool(checkpoints(run)), process)
    process.kill()
    process.communicate(timeout=DEADLINE_S)
    assert not (run / "summary.json").exists()
    made("train", tiny_config, "--resume", "--run-dir", run, *sets(lag))
    assert hashes(run) == undisturbed
    rows = [json.loads(line)["step"] for line in (run / "eval.jsonl").read_text().splitlines()]
    assert rows == list(range(10, STEPS + 1, 10)), "nothing twice, nothing missing"


@once
@pytest.mark.timeout(240)
def test_run_goes_on_when_every_scorer_freezes(
    tiny_config: Path, tmp_path: Path, lag: int, undisturbed: tuple[str, str]
) -> None:
    """A frozen scorer is alive to Ray and is not replaced: the trainer scores by itself."""
    run = tmp_path / "run"
    lease = ["--set", "queue.lease_s=1.0"]
    process = start("train", tiny_config, "--run-dir", run, "--workers", 1, *sets(lag), *lease)
    until(lambda: bool(checkpoints(run)), process)
    os.kill(starts(run, "scorer-0")[0], signal.SIGSTOP)
    ended_well(process)
    assert hashes(run) == undisturbed


@once
@pytest.mark.timeout(240)
def test_queue_flushed(
    tiny_config: Path, tmp_path: Path, lag: int, undisturbed: tuple[str, str]
) -> None:
    """Again and again, wherever trainer and scorers just are: the queue holds nothing durable."""
    run, port = tmp_path / "run", free_port()
    with tcp_server(tmp_path, port) as url, redis.Redis.from_url(url) as client:
        secret = tmp_path / "secret"
        secret.write_text(PASSWORD)
        server = (f"queue.url=redis://127.0.0.1:{port}", f"queue.password_file={secret}")
        flags = [word for value in server for word in ("--set", value)]
        process = start("train", tiny_config, "--run-dir", run, "--workers", 2, *sets(lag), *flags)
        for flushes in range(1, 4):
            until(lambda: newest_step(run) >= 20 * flushes, process)  # noqa: B023 - called now
            client.flushall()
        ended_well(process)
    assert hashes(run) == undisturbed


MODES = {
    "shortlists by scorers": ["selection.lag=1", "selection.rescore=scorers"],
    "auto": ["selection.lag=auto", "selection.audit_every=40"],
    "stream": ["selection.mode=stream"],
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.timeout(240)
def test_every_mode_outlives_a_scorer_and_its_trainer(
    tiny_config: Path, tmp_path: Path, mode: str
) -> None:
    run = tmp_path / "run"
    settings = [*MODES[mode], f"trainer.steps={SHORT}", "trainer.checkpoint_every=20"]
    flags = [word for value in settings for word in ("--set", value)]
    process = start("train", tiny_config, "--run-dir", run, "--workers", 2, *flags)
    until(lambda: bool(checkpoints(run)), process)
    os.kill(starts(run, "scorer-1")[0], signal.SIGKILL)
    before = newest_step(run)
    until(lambda: newest_step(run) > before, process)
    os.kill(starts(run, "trainer")[0], signal.SIGKILL)
    process.communicate(timeout=DEADLINE_S)
    assert not (run / "summary.json").exists()

    ended_well(start("train", "--resume", "--run-dir", run, "--workers", 1))
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == SHORT
    assert summary["exact"] == (mode == "shortlists by scorers")
    if summary["exact"]:
        made("train", tiny_config, "--run-dir", tmp_path / "alone", *flags)
        assert hashes(run) == hashes(tmp_path / "alone")


@pytest.mark.timeout(240)
def test_a_stream_goes_on_after_a_flush(tiny_config: Path, tmp_path: Path) -> None:
    run, port = tmp_path / "run", free_port()
    with tcp_server(tmp_path, port) as url, redis.Redis.from_url(url) as client:
        secret = tmp_path / "secret"
        secret.write_text(PASSWORD)
        server = (f"queue.url=redis://127.0.0.1:{port}", f"queue.password_file={secret}")
        values = [
            *server,
            *MODES["stream"],
            f"trainer.steps={SHORT}",
            "trainer.checkpoint_every=20",
        ]
        flags = [word for value in values for word in ("--set", value)]
        process = start("train", tiny_config, "--run-dir", run, "--workers", 2, *flags)
        for flushes in range(1, 4):
            until(lambda: newest_step(run) >= 20 * flushes, process)  # noqa: B023 - called now
            client.flushall()
        ended_well(process)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["max_staleness_steps"] <= 16, "stream.max_age"
