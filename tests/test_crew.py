"""`rhoctl train` with several `trainer.devices`: the processes that it starts end with it, whatever
happens to one of them, and the run goes on with any number of devices."""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

import user_code
from rhoselect.config import load
from rhoselect.inputs import open_inputs
from rhoselect.queue.memory import MemoryQueue
from rhoselect.runtime.leading import LeadControl
from rhoselect.runtime.local import run_here
from rhoselect.trainer.runfolder import RunFolder
from support import DEADLINE_S, Result, hashes, lives, made, rhoctl, start, until, until_gone
from warm import Process

pytestmark = pytest.mark.timeout(240)  # interpreters start, beside other tests

KEYS = ["model.factory=user_code:Slow", "model.args={}", "trainer.steps=16", "trainer.lr=0.01"]
KEYS += ["trainer.micro_batches=4", "trainer.checkpoint_every=1"]
HERE = str(Path(__file__).parent)


def sets(*keys: str) -> list[str]:
    return [word for key in keys for word in ("--set", key)]


def pids(run: Path, devices: int) -> list[int]:
    """The lead's process and those of its followers, of the newest start."""
    found = [int((run / "lock").read_text().split()[0])]
    for rank in range(1, devices):
        log = (run / "logs" / f"rank-{rank}.log").read_text()
        found.append(int(re.findall(rf"rank {rank} of process (\d+) starts", log)[-1]))
    return found


def started(config: Path, run: Path, devices: int, timeout_s: int = 60, *more: str) -> Process:
    """A run that has a checkpoint and is far from its end."""
    keys = [*KEYS, f"trainer.devices={devices}", f"cluster.rank_timeout_s={timeout_s}", *more]
    command = ("train", config, "--run-dir", run, *sets(*keys))
    process = start(*command)
    until(lambda: any(run.glob("checkpoints/step-000000002*")), process)
    return process


def ended(process: Process) -> Result:
    out, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode is not None
    return Result(process.returncode, out, errors)


@pytest.fixture(scope="module")
def undisturbed(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    made("train", tiny_config, "--run-dir", run, *sets(*KEYS[2:]), *sets(*KEYS[:2]))
    return hashes(run)


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", HERE, prepend=os.pathsep)


FAULTS = {
    "killed": (signal.SIGKILL, r"rank {rank} \(process {pid}\) was killed \(SIGKILL\)"),
    "frozen": (signal.SIGSTOP, r"rank {rank} \(process {pid}\) did not answer for 8 s"),
    "asked to end": (signal.SIGTERM, r"rank {rank} \(process {pid}\) was asked to end \(SIGTERM\)"),
}


@pytest.mark.parametrize(
    ("fault", "devices", "rank", "then"),
    [
        pytest.param("killed", 2, 1, 1, marks=pytest.mark.long),
        pytest.param("killed", 4, 3, 2, marks=pytest.mark.matrix),
        pytest.param("frozen", 2, 1, 4, marks=pytest.mark.matrix),
        pytest.param("frozen", 4, 3, 1, marks=pytest.mark.matrix),
        pytest.param("asked to end", 2, 1, 2, marks=pytest.mark.matrix),
    ],
)
def test_a_follower_that_ends_ends_the_run(
    tiny_config: Path,
    tmp_path: Path,
    undisturbed: tuple[str, str],
    fault: str,
    devices: int,
    rank: int,
    then: int,
) -> None:
    """With one line that names it and the cause; no process stays; and the run can go on."""
    run = tmp_path / "run"
    process = started(tiny_config, run, devices, 8 if fault == "frozen" else 60)
    everyone = pids(run, devices)
    number, pattern = FAULTS[fault]
    os.kill(everyone[rank], number)
    result = ended(process)
    said = result.out if fault == "asked to end" else result.err
    assert result.code == 1, result
    assert re.search(pattern.format(rank=rank, pid=everyone[rank]), said), result
    assert f"continue with: rhoctl train --resume --run-dir {run}" in said
    assert result.err.count("\n") <= 1 and "Traceback" not in result.err
    assert not any(map(lives, everyone))
    made("train", "--resume", "--run-dir", run, *sets(f"trainer.devices={then}"))
    assert hashes(run) == undisturbed


@pytest.mark.matrix
@pytest.mark.parametrize("fault", FAULTS)
def test_ranks_of_a_divided_model_end_alike(tiny_config: Path, tmp_path: Path, fault: str) -> None:
    """And go on to the same bits with the same number of devices."""
    run, other, divided = tmp_path / "run", tmp_path / "other", "trainer.parallel=fsdp"
    process = started(tiny_config, run, 2, 8 if fault == "frozen" else 60, divided)
    follower = pids(run, 2)[1]
    number, pattern = FAULTS[fault]
    os.kill(follower, number)
    result = ended(process)
    assert result.code == 1, result
    assert re.search(pattern.format(rank=1, pid=follower), result.out + result.err), result
    assert result.err.count("\n") <= 1 and "Traceback" not in result.err
    assert not lives(follower)
    made("train", "--resume", "--run-dir", run)
    keys = sets(*KEYS, "trainer.devices=2", divided)
    made("train", tiny_config, "--run-dir", other, *keys)
    assert hashes(run) == hashes(other)


@pytest.mark.matrix
def test_the_end_of_a_follower_ends_an_evaluation(tiny_config: Path, tmp_path: Path) -> None:
    """Not only the step that would come after it: this one takes 10 s, others minutes."""
    run, mark = tmp_path / "run", tmp_path / "mark"
    keys = [*KEYS[2:], "model.factory=user_code:LongEvaluated", f"model.args={{mark='{mark}'}}"]
    keys += ["trainer.eval_every=3", "trainer.eval_batch=1", "trainer.devices=2"]
    process = start("train", tiny_config, "--run-dir", run, *sets(*keys))
    until(lambda: any(run.glob("checkpoints/step-000000002*")), process)
    mark.unlink(missing_ok=True)
    until(mark.exists, process)
    follower = pids(run, 2)[1]
    os.kill(follower, signal.SIGKILL)
    result = ended(process)
    assert result.code == 1
    assert f"rank 1 (process {follower}) was killed (SIGKILL)" in result.err, result
    assert not (run / "eval.jsonl").read_text()


@pytest.mark.matrix
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "asked to end"])
def test_followers_do_not_outlive_their_lead(
    tiny_config: Path, tmp_path: Path, undisturbed: tuple[str, str], number: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = started(tiny_config, run, 2)
    everyone = pids(run, 2)
    process.send_signal(number)
    result = ended(process)
    assert result.code == (-9 if number == signal.SIGKILL else 143), result
    until_gone(everyone[1])
    made("train", "--resume", "--run-dir", run, *sets("trainer.devices=4"))
    assert hashes(run) == undisturbed


@pytest.mark.matrix
def test_a_lead_that_was_frozen_says_so(tiny_config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = started(tiny_config, run, 2, 8)
    lead, follower = pids(run, 2)
    os.kill(lead, signal.SIGSTOP)
    try:
        until(lambda: not lives(follower), process)
    finally:
        os.kill(lead, signal.SIGCONT)
    result = ended(process)
    assert result.code == 1, result
    assert re.search(
        rf"rank 1 \(process {follower}\) ended: rank (0 said nothing|1 lost)|rank 0 lost",
        result.err,
    )


@pytest.mark.matrix
def test_what_fails_at_a_follower_is_told(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a module that the lead alone has."""
    monkeypatch.setitem(sys.modules, "passing", user_code)
    keys = ["model.factory=passing:Slow", "model.args={}", "trainer.micro_batches=2"]
    run = tmp_path / "run"
    result = rhoctl("train", tiny_config, "--run-dir", run, *sets(*keys, "trainer.devices=2"))
    assert result.code == 1
    assert re.search(r"rank 1 \(process \d+\): model\.factory: .*'passing'", result.err), result


@pytest.mark.matrix
@pytest.mark.parametrize("lag", [0, 1])
def test_followers_that_only_train(tiny_config: Path, tmp_path: Path, lag: int) -> None:
    """As beside scorers, whose work the lead does here."""
    keys = [*KEYS, f"selection.lag={lag}", "cluster.mode=split"]
    made("train", tiny_config, "--run-dir", tmp_path / "alone", *sets(*keys))
    inputs, control = open_inputs(load(tiny_config, [*keys, "trainer.devices=2"])), LeadControl()
    folder = RunFolder.create(tmp_path / "run", inputs.config, inputs.sha256)
    with control.leading(inputs.config, folder, "split") as group:
        run_here(inputs, folder, nullcontext, MemoryQueue(30.0), control, group)
    assert hashes(tmp_path / "run") == hashes(tmp_path / "alone")


@pytest.mark.matrix
@pytest.mark.parametrize("lag", [0, 1])
def test_a_group_of_trainers_beside_scorers(
    ray_session: None, tiny_config: Path, tmp_path: Path, lag: int
) -> None:
    keys = [*KEYS, f"selection.lag={lag}", "cluster.mode=split"]
    made("train", tiny_config, "--run-dir", tmp_path / "alone", *sets(*keys))
    several = sets(*keys, "trainer.devices=2")
    made("train", tiny_config, "--run-dir", tmp_path / "run", "--workers", "2", *several)
    assert hashes(tmp_path / "run") == hashes(tmp_path / "alone")
