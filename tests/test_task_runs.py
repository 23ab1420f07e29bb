"""Runs of other tasks on Ray, whose scorers and trainers are killed: the hashes of one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from faulty import Run, newest_step
from support import DEADLINE_S, hashes, made
from task_runs import settings, words

CASES = [
    pytest.param("two inputs", 1, marks=pytest.mark.matrix),
    pytest.param("two inputs", 0, marks=pytest.mark.matrix),
    pytest.param("causal LM", 0, marks=pytest.mark.matrix),
    pytest.param("causal LM", 1, marks=pytest.mark.matrix),
]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("name", "lag"), CASES)
def test_a_run_outlives_a_scorer_and_its_trainer(
    ray_session: None, task_config: Path, tmp_path: Path, name: str, lag: int
) -> None:
    """With three scorers, resumed with one. Steps last, so that actors come to work and die."""
    sets = settings(name, f"selection.lag={lag}", "selection.chunk=4", "trainer.steps=40")
    made("train", task_config, "--run-dir", tmp_path / "alone", *words(sets))
    sets += ["model.args.pause_s=0.05", "trainer.checkpoint_every=5", "trainer.scores=false"]
    sets += ["queue.lease_s=1", f"queue.timeout_s={DEADLINE_S}"]
    run = Run(tmp_path / "run")

    def fault() -> None:
        run.reach(5)
        run.kill("scorer-1")
        run.reach(newest_step(run.path) + 5)
        run.kill("trainer")

    result = run.with_fault(fault, "train", task_config, "--workers", 3, *words(sets))
    assert result.code == 1 and "--resume" in result.err
    made("train", "--resume", "--run-dir", run.path, "--workers", "1")
    assert hashes(run.path) == hashes(tmp_path / "alone")
