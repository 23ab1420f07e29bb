"""A loop of one's own with any task, from a service and in its own process: a run of ``rhoctl``."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from service_helpers import inputs, service

from faulty import look, starts
from rhoselect.client import SelectionClient
from rhoselect.inputs import RunInputs
from rhoselect.trainer.records import selected_sha256, weights_sha256
from rhoselect.types import Batch
from support import hashes, made
from task_code import Points
from task_runs import LR, STEPS, settings, words

pytestmark = pytest.mark.usefixtures("away")

CUT = 3  # steps after which a loop, or a scorer, dies
MATRIX = pytest.param("causal LM", 0, marks=pytest.mark.matrix)
LAGS = [("two inputs", 0), ("two inputs", 1), ("causal LM", 1), MATRIX]


class Loop:
    """A plain loop of a user's, and what it selected and learnt."""

    def __init__(self, run: RunInputs) -> None:
        torch.set_num_threads(1)
        self.model, self._task = run.new_model(), run.task
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(), LR, weight_decay=run.config.trainer.weight_decay, fused=True
        )
        self.selected: list[torch.Tensor] = []

    def take(self, selection: SelectionClient, steps: int | None = None) -> None:
        """Train on the next batches: all, or so many."""
        for batch in itertools.islice(selection, steps):
            points = Batch(batch.indices.numpy(), batch.inputs)
            self._optimizer.zero_grad()
            self._task.losses(self.model, points).losses.mean().backward()
            self._optimizer.step()
            selection.step(self.model)
            self.selected.append(batch.indices)
        if steps is None:
            selection.log(STEPS, loss=0.25, **{self._task.metric: 0.5})

    def hashes(self) -> tuple[str, str]:
        chosen = selected_sha256(indices.numpy() for indices in self.selected)
        return chosen, weights_sha256(self.model)


def of_a_loop(run: RunInputs, **where: object) -> tuple[str, str]:
    """Of a loop that dies and goes on, but for one of a service at lag 1, which cannot."""
    loop, start = Loop(run), 0
    if "local" in where or not run.config.selection.lag:
        before = SelectionClient(loop.model, **where)
        loop.take(before, CUT)
        start = before.state_dict()
    loop.take(SelectionClient(loop.model, **where, step=start))
    return loop.hashes()


@pytest.mark.parametrize(("name", "lag"), LAGS)
def test_every_loop_is_a_run_of_rhoctl(
    task_config: Path, tmp_path: Path, name: str, lag: int
) -> None:
    """The service sends nests, or indices to a loop with the points; a local one reads them."""
    sets = settings(name, f"selection.lag={lag}")
    made("train", task_config, "--run-dir", tmp_path / "run", *words(sets))
    expected = hashes(tmp_path / "run")
    run = inputs(task_config, sets)
    points = {"data": Points("train", run.config.data.args["kind"]), "collate_fn": run.task.collate}
    with service(run, tmp_path / "served") as address:
        assert of_a_loop(run, address=address) == expected
        assert of_a_loop(run, address=address, **points) == expected
    config = run.config.model_dump()
    here = {"local": True, "config": config, "run_dir": tmp_path / "local"}
    assert of_a_loop(run, **here) == expected
    sections = ("seed", "selection", "scorer", "trainer", "task")
    own = {"local": True, "config": {key: config[key] for key in sections}, **points}
    assert of_a_loop(run, **own, run_dir=None) == expected
    for folder in ("served", "local"):
        summary = json.loads((tmp_path / folder / "summary.json").read_text())
        assert (summary["metric"], summary["final_metric"]) == (run.task.metric, 0.5)
        assert "best_accuracy" not in summary


@pytest.mark.matrix
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("name", "lag"), LAGS)
def test_a_service_outlives_a_scorer(
    ray_session: None, task_config: Path, tmp_path: Path, name: str, lag: int
) -> None:
    sets = settings(name, f"selection.lag={lag}", "selection.chunk=4", "trainer.scores=false")
    made("train", task_config, "--run-dir", tmp_path / "run", *words(sets))
    run, folder = inputs(task_config, [*sets, "queue.lease_s=1"]), tmp_path / "served"
    loop = Loop(run)
    with service(run, folder, workers=3) as address:
        selection = SelectionClient(loop.model, address)
        loop.take(selection, CUT)
        look(lambda: bool(starts(folder, "scorer-1")), lambda: False)
        os.kill(starts(folder, "scorer-1")[-1], signal.SIGKILL)
        loop.take(selection)
    assert loop.hashes() == hashes(tmp_path / "run") == hashes(folder)
