"""Real processes, killed for real: runs go on, exact ones to the hashes of an undisturbed one.

What else can happen to an exact run with workers is in tests/chaos.

Where not the command itself is killed, it runs in this process, and a thread does the killing;
actors are processes of the session's Ray cluster.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support import DEADLINE_S, Result, hashes, made, rhoctl, start
from warm import Process

STEPS = 160

pytestmark = pytest.mark.timeout(240)


def flags(*settings: str) -> list[str]:
    """Of a run that lasts, with steps that leave the cores to others."""
    values = ["model={factory = 'user_code:Slow'}", f"trainer.steps={STEPS}", "selection.lag=1"]
    values += [f"queue.timeout_s={DEADLINE_S}", *settings]
    return [word for value in values for word in ("--set", value)]


class Run:
    """``rhoctl`` here, and meanwhile a fault in a thread; the run's folder is ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._over = threading.Event()

    def with_fault(self, fault: Callable[[], None], *arguments: str | Path | int) -> Result:
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(fault)
            result = rhoctl(*map(str, arguments), "--run-dir", self.path)
            self._over.set()
            done.result(timeout=DEADLINE_S)
        return result

    def reach(self, step: int) -> None:
        """Look again and again until there is a checkpoint of ``step`` or later."""
        reach(self.path, step, self._over.is_set)

    def kill(self, actor: str, sign: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to an actor's newest process, once there is one."""
        look(lambda: bool(starts(self.path, actor)), self._over.is_set)
        os.kill(starts(self.path, actor)[-1], sign)


def reach(run: Path, step: int, over: Callable[[], bool]) -> None:
    look(lambda: newest_step(run) >= step, over)


def look(happened: Callable[[], bool], over: Callable[[], bool]) -> None:
    """Look again and again until something happened in a run that must not end before."""
    deadline = time.monotonic() + DEADLINE_S
    while not happened():
        assert not over(), "ended early"
        assert time.monotonic() < deadline, "never happened"
        time.sleep(0.01)


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*"))


def newest_step(run: Path) -> int:
    return max((int(p.stem.removeprefix("step-")) for p in checkpoints(run)), default=0)


def starts(run: Path, actor: str) -> list[int]:
    """Process numbers that an actor has had, from its log."""
    log = run / "logs" / f"{actor}.log"
    text = log.read_text() if log.exists() else ""
    return [int(n) for n in re.findall(r"process (\d+) starts", text)]


@pytest.fixture(autouse=True)
def its_model_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By commands in processes of their own."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.fixture(scope="module")
def undisturbed(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    made("train", tiny_config, "--run-dir", run, *flags())
    return hashes(run)


def test_a_run_outlives_a_scorer_and_its_trainer(
    ray_session: None, tiny_config: Path, tmp_path: Path, undisturbed: tuple[str, str]
) -> None:
    run, watching = Run(tmp_path / "run"), list[Process]()

    def fault() -> None:
        run.reach(20)
        watching.append(start("watch", run.path))
        assert watching[0].stdout.readline()
        run.kill("scorer-1")
        run.reach(newest_step(run.path) + 10)
        run.kill("trainer")

    result = run.with_fault(fault, "train", tiny_config, "--workers", 2, *flags())
    assert result.code == 1
    assert "--resume" in result.err
    assert "Traceback" not in result.err
    assert not (run.path / "summary.json").exists()
    assert checkpoints(run.path), "the last checkpoint survives"
    _, said = watching[0].communicate(timeout=DEADLINE_S)
    assert watching[0].returncode == 1 and said == result.err, "who watched it knows"

    made("train", "--resume", "--run-dir", run.path, "--workers", "1")
    assert hashes(run.path) == undisturbed


def test_whole_command_killed_and_resumed(
    tiny_config: Path, tmp_path: Path, undisturbed: tuple[str, str]
) -> None:
    run = tmp_path / "run"
    process = start("train", tiny_config, "--run-dir", run, *flags())
    reach(run, 20, lambda: process.poll() is not None)
    process.kill()
    process.communicate()
    assert not (run / "summary.json").exists()
    made("train", tiny_config, "--resume", "--run-dir", run, *flags())
    assert hashes(run) == undisturbed
    rows = [json.loads(line)["step"] for line in (run / "eval.jsonl").read_text().splitlines()]
    assert rows == list(range(10, STEPS + 1, 10)), "nothing twice, nothing missing"


@pytest.mark.long
def test_run_goes_on_when_every_scorer_freezes(
    ray_session: None, tiny_config: Path, tmp_path: Path, undisturbed: tuple[str, str]
) -> None:
    """A frozen scorer is alive to Ray and is not replaced: the trainer scores by itself."""
    run = Run(tmp_path / "run")

    def fault() -> None:
        run.reach(20)
        run.kill("scorer-0", signal.SIGSTOP)

    settings = flags("queue.lease_s=1.0")
    try:
        result = run.with_fault(fault, "train", tiny_config, "--workers", 1, *settings)
    finally:
        run.kill("scorer-0", signal.SIGCONT)
    assert result.code == 0, result.err
    assert len(starts(run.path, "scorer-0")) == 1
    assert hashes(run.path) == undisturbed
