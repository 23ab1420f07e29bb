"""Real processes, killed for real: runs go on, exact ones to the hashes of an undisturbed one.

What else can happen to an exact run with workers is in tests/chaos.

Where not the command itself is killed, it runs in this process, and a thread does the killing;
actors are processes of the session's Ray cluster.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from faulty import Run, checkpoints, newest_step, reach, starts
from support import DEADLINE_S, hashes, made, start
from warm import Process

STEPS = 160

pytestmark = pytest.mark.timeout(240)


def flags(*settings: str) -> list[str]:
    """Of a run that lasts, with steps that leave the cores to others."""
    values = ["model={factory = 'user_code:Slow'}", f"trainer.steps={STEPS}", "selection.lag=1"]
    values += [f"queue.timeout_s={DEADLINE_S}", *settings]
    return [word for value in values for word in ("--set", value)]


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


@pytest.mark.long
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
