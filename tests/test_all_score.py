"""``cluster.mode = "colocated"`` with workers: the devices that train score beside scorers, and no
result changes."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from support import DEADLINE_S, hashes, made, start, until, until_gone

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(240)]  # actors and interpreters start

KEYS = ["trainer.steps=16", "trainer.lr=0.01", "trainer.micro_batches=4"]
KEYS += ["trainer.checkpoint_every=1", "cluster.mode=colocated"]
SLOW = ["model.factory=user_code:Slow", "model.args={}"]
CNN = ["model.factory=rhoselect.models:resnet18_small", "model.args={width = 4}"]
KINDS: dict[str, list[str]] = {
    "losses": [],
    "a state": ["selection.function=reducr"],
    "a shortlist": ["selection.shortlist=2", "selection.rescore=scorers"],
    "a shortlist at the trainer": ["selection.shortlist=2", "selection.audit_every=4"],
    "estimated BatchNorm": [*CNN, "selection.bn=auto"],
    "parts of a model": ["trainer.parallel=fsdp", "model.factory=user_code:Stacked"],
}
KINDS["parts of a model"] += ["model.args={}", "trainer.optimizer.name=SGD"]


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


def words(*keys: str) -> list[str]:
    return [word for key in keys for word in ("--set", key)]


def case(kind: str, devices: int, workers: int) -> Any:
    return pytest.param(kind, devices, workers, id=f"{kind}, {devices} and {workers}")


CASES = [(kind, 2, 1) for kind in KINDS] + [("losses", 4, 2), ("a state", 1, 2)]


@pytest.mark.parametrize(("kind", "devices", "workers"), [case(*each) for each in CASES])
def test_scorers_beside_ranks_that_score_change_nothing(
    ray_session: None, tiny_config: Path, tmp_path: Path, kind: str, devices: int, workers: int
) -> None:
    keys = words(*KEYS, *KINDS[kind])
    alone = devices if "trainer.parallel=fsdp" in KINDS[kind] else 1  # repeats for one number
    for name, count, scorers in (("alone", alone, 0), ("run", devices, workers)):
        several = words(f"trainer.devices={count}")
        run = ("--run-dir", tmp_path / name, "--workers", str(scorers))
        made("train", tiny_config, *run, *keys, *several)
    assert hashes(tmp_path / "run") == hashes(tmp_path / "alone")


@pytest.mark.parametrize("mode", ["colocated", "auto"])
def test_all_of_them_score(ray_session: None, tiny_config: Path, tmp_path: Path, mode: str) -> None:
    """Not only in the probe of a process. Two ranks have four of eight chunks each, three processes
    at most three."""
    marks = tmp_path / "marks"
    marks.mkdir()
    keys = ["model.factory=user_code:Marked", f"model.args={{folder='{marks}', points=8}}"]
    keys += ["selection.chunk=8", f"cluster.mode={mode}"]
    several = words(*KEYS, *keys, "trainer.devices=2")
    made("train", tiny_config, "--run-dir", tmp_path / "run", "--workers", "1", *several)
    forwards = sorted(each.stat().st_size for each in marks.iterdir())
    assert len([count for count in forwards if count > 4]) == 3, forwards


@pytest.mark.parametrize("killed", ["trainer", "rank-1"])
def test_the_end_of_one_that_trains_ends_the_run(
    tiny_config: Path, tmp_path: Path, killed: str
) -> None:
    """Also if others wait for the chunks that it holds; and the run goes on to the same bits."""
    run, keys = tmp_path / "run", words(*KEYS, *SLOW)
    made("train", tiny_config, "--run-dir", tmp_path / "alone", *keys)
    two = words("trainer.devices=2", "queue.lease_s=600")
    process = start("train", tiny_config, "--run-dir", run, "--workers", 1, *keys, *two)
    until(lambda: any(run.glob("checkpoints/step-000000002*")), process)
    logs = {name: (run / "logs" / f"{name}.log").read_text() for name in ("trainer", "rank-1")}
    pids = {
        name: int(re.findall(r"of process (\d+) starts", log)[-1]) for name, log in logs.items()
    }
    os.kill(pids[killed], signal.SIGKILL)
    out, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1, (out, errors)
    said = {"trainer": "the trainer", "rank-1": f"rank 1 (process {pids['rank-1']}) was killed"}
    assert said[killed] in errors, errors
    until_gone(pids["rank-1"])
    made("train", "--resume", "--run-dir", run, *words("trainer.devices=4"))
    assert hashes(run) == hashes(tmp_path / "alone")
