"""`selection.max_tokens`: the best points that have no more tokens, as in a plain loop."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import threaded
from rhoselect.config import load
from rhoselect.inputs import open_inputs
from support import hashes, made, rhoctl
from task_code import Points
from task_runs import CHUNK, LR, STEPS, settings, words
from test_tasks import next_tokens

MOST = 14  # of sequences of 3 to 8 tokens: 1 to 4 of them


def test_a_batch_has_the_best_points_within_the_budget(task_config: Path, tmp_path: Path) -> None:
    sets = settings("causal LM", f"selection.max_tokens={MOST}")
    made("train", task_config, "--run-dir", tmp_path / "run", *words(sets))
    inputs, points = open_inputs(load(task_config, sets)), Points("train", "sequence")
    torch.set_num_threads(inputs.config.trainer.threads)
    plan, model = inputs.plan, inputs.new_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    selected, n_b = [], inputs.config.selection.n_b
    for step in range(STEPS):
        window = plan.indices(plan.window(step)).tolist()
        scorer, losses = copy.deepcopy(model).eval(), list[float]()
        for start in range(0, len(window), CHUNK):
            part = [points[index] for index in window[start : start + CHUNK]]
            with torch.no_grad():
                losses += next_tokens(scorer, part).tolist()
        ranked = sorted(range(len(window)), key=lambda place: (-losses[place], place))
        batch = [window[place] for place in ranked[:n_b]]
        while sum(len(points[index]) for index in batch) > MOST:
            batch.pop()
        optimizer.zero_grad()
        next_tokens(model, [points[index] for index in batch]).mean().backward()
        optimizer.step()
        selected.append(batch)
    assert pq.read_table(tmp_path / "run" / "steps.parquet")["indices"].to_pylist() == selected
    assert len({len(batch) for batch in selected}) > 1, "batches of several sizes"
    found = load_file(tmp_path / "run" / "model.safetensors")
    torch.testing.assert_close(found, dict(model.state_dict()), rtol=1e-4, atol=1e-6)


def test_scorers_and_a_resume_change_nothing(task_config: Path, tmp_path: Path) -> None:
    """With a budget that one point exceeds: it is trained on alone."""
    more = ("selection.lag=1", "selection.max_tokens=3", "trainer.checkpoint_every=5")
    sets, cut = settings("causal LM", *more), tmp_path / "0"
    made("train", task_config, "--run-dir", cut, *words(sets))
    whole = hashes(cut)
    steps = pq.read_table(cut / "steps.parquet")["indices"].to_pylist()
    assert {len(batch) for batch in steps} == {1}
    threaded.run(task_config, tmp_path / "2", 2, sets)
    assert hashes(tmp_path / "2") == whole
    *_, newest = sorted(cut.glob("checkpoints/step-*"))
    for path in (newest, cut / "steps.parquet", cut / "summary.json"):
        path.unlink()
    made("train", "--resume", "--run-dir", cut)
    assert hashes(cut) == whole
    assert json.loads((cut / "summary.json").read_text())["flops"]["train"] > 0


@pytest.mark.parametrize(
    ("name", "more", "told"),
    [
        ("two inputs", "trainer.lr=1e-3", r"task_code:Fit', allowed 0 with a task without tok"),
        ("causal LM", "trainer.micro_batches=2", r"with trainer.micro_batches = 2, allowed 1, as"),
        ("causal LM", "selection.max_tokens=-1", r"selection\.max_tokens: got -1"),
        (
            "causal LM",
            "selection.function=divbs",
            r"max_tokens: got 9 with selection.function = 'divbs'",
        ),
    ],
    ids=["no tokens", "micro-batches", "negative", "picked together"],
)
def test_what_does_not_go_with_it(
    task_config: Path, tmp_path: Path, name: str, more: str, told: str
) -> None:
    sets = settings(name, "selection.max_tokens=9", more)
    result = rhoctl("train", task_config, "--run-dir", tmp_path / "run", *words(sets))
    assert result.code == 2 and result.err.count("\n") == 1, result.err
    assert re.search(told, result.err), result.err
    assert not (tmp_path / "run").exists()
