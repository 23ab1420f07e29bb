"""Any task goes through the whole machine: Algorithm 1's points and weights, wherever it is scored.

The plain losses and the plain loop share no code with what is tested.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import threaded
from oracle import any_task
from rhoselect.config import load
from rhoselect.inputs import open_inputs
from support import hashes, made, rhoctl
from task_code import SIZES, Points
from task_runs import CHUNK, LR, STEPS, TASKS, n_b, settings, words


def train(config: Path, run: Path, sets: list[str], workers: int = 0) -> dict[str, Any]:
    made("train", config, "--run-dir", run, "--workers", workers, *words(sets))
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def fit(model: nn.Module, items: list[Any]) -> Tensor:
    longest = max(len(item["words"]) for item in items)
    padded = [item["words"] + [0] * (longest - len(item["words"])) for item in items]
    found = model(torch.stack([item["image"] for item in items]), torch.tensor(padded))
    return (found - torch.tensor([item["fit"] for item in items])).abs()


def next_tokens(model: nn.Module, items: list[Any]) -> Tensor:
    longest, losses = max(map(len, items)), []
    padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in items])
    for ids, log_p in zip(items, model(padded, padded).log_softmax(2), strict=True):
        each = [-log_p[place - 1, ids[place]] for place in range(1, len(ids))]
        losses.append(torch.stack(each).mean())
    return torch.stack(losses)


def squared(model: nn.Module, items: list[Any]) -> Tensor:
    found = model(torch.stack([value for value, _ in items])).squeeze(1)
    return (found - torch.tensor([target for _, target in items])) ** 2


def binary(model: nn.Module, items: list[Any]) -> Tensor:
    p = model(torch.stack([value for value, _ in items])).sigmoid()
    labels = torch.stack([target for _, target in items])
    return -(labels * p.log() + (1 - labels) * (1 - p).log()).mean(1)


def entropies(model: nn.Module, items: list[Any]) -> Tensor:
    logits = model(torch.stack([value for value, _ in items]))
    return F.cross_entropy(logits, torch.tensor([label for _, label in items]), reduction="none")


PLAIN: dict[str, Callable[[nn.Module, list[Any]], Tensor]] = {
    "two inputs": fit,
    "causal LM": next_tokens,
    "regression": squared,
    "multi-label": binary,
    "classification": entropies,
}


@pytest.mark.parametrize("name", TASKS)
def test_a_run_is_algorithm_1(task_config: Path, tmp_path: Path, name: str) -> None:
    sets = settings(name)
    summary = train(task_config, tmp_path / "run", sets)
    inputs = open_inputs(load(task_config, sets))
    points, model = Points("train", TASKS[name][0]), inputs.new_model().train()
    torch.set_num_threads(inputs.config.trainer.threads)
    plan = inputs.plan
    windows = [torch.from_numpy(plan.indices(plan.window(t))) for t in range(STEPS)]
    losses = PLAIN[name]
    selected = any_task(
        model,
        windows,
        lambda network, indices: losses(network, [points[i] for i in indices.tolist()]),
        torch.zeros(len(points)),
        n_b=n_b,
        chunk=CHUNK,
        lr=LR,
    )
    rows = pq.read_table(tmp_path / "run" / "steps.parquet")["indices"].to_pylist()
    assert rows == [row.tolist() for row in selected]
    found = load_file(tmp_path / "run" / "model.safetensors")
    for key, tensor in model.state_dict().items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-6)
    check_figures(summary, tmp_path / "run", name, found, inputs.new_model())


def check_figures(
    summary: dict[str, Any], run: Path, name: str, weights: dict[str, Tensor], model: nn.Module
) -> None:
    """The last evaluation is that of the final weights, by plain means."""
    model.load_state_dict(weights)
    points = Points("test", TASKS[name][0])
    items = [points[place] for place in range(len(points))]
    with torch.no_grad():
        losses = PLAIN[name](model.eval(), items).double()
    last = json.loads((run / "eval.jsonl").read_text().splitlines()[-1])
    assert last["metric"] == summary["final_metric"] == last[summary["metric"]]
    assert summary[f"final_{summary['metric']}"] == summary["final_metric"]
    assert ("best_accuracy" in summary) == (name == "classification")
    expected = {
        "two inputs": lambda: {"error": losses.mean(), "most": losses.max()},
        "causal LM": lambda: {"perplexity": math.exp(last["loss"])},
        "regression": lambda: {"rmse": losses.mean().sqrt(), "loss": losses.mean()},
        "multi-label": lambda: {"loss": losses.mean()},
        "classification": lambda: {"loss": losses.mean()},
    }[name]()
    for key, value in expected.items():
        assert last[key] == pytest.approx(float(value), rel=1e-4)


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("name", ["two inputs", "causal LM"])
def test_scorers_a_frozen_one_and_a_resume_change_nothing(
    task_config: Path, tmp_path: Path, name: str, lag: int
) -> None:
    sets = settings(name, f"selection.lag={lag}", "trainer.checkpoint_every=5")
    whole = train(task_config, tmp_path / "0", sets)
    threaded.run(task_config, tmp_path / "3", 3, [*sets, "queue.lease_s=0.2"], frozen=1)
    assert hashes(tmp_path / "3") == hashes(tmp_path / "0")
    cut = tmp_path / "0"
    *_, newest = sorted(cut.glob("checkpoints/step-*"))
    for path in (newest, cut / "steps.parquet", cut / "summary.json"):
        path.unlink()
    made("train", "--resume", "--run-dir", cut)
    assert hashes(cut) == (whole["selected_sha256"], whole["weights_sha256"])


def test_losses_of_a_holdout_and_of_folds(task_config: Path, tmp_path: Path) -> None:
    """`il fit` and cross-fits use the task, and a run with them selects by what is left."""
    keys = settings("two inputs")
    data = ["--data", "task_code:Points", "--model", "task_code:TwoViews"]
    more = words(["data.args.kind=views", "task.name=task_code:Fit", "trainer.lr=1e-2"])
    for name, how in (("holdout", []), ("folds", ["--folds", "2"])):
        table = tmp_path / f"{name}.parquet"
        made("il", "fit", *data, "--out", table, "--batch", "8", "--epochs", "2", *how, *more)
        losses = pq.read_table(table)["irreducible_loss"].to_numpy()
        assert losses.shape == (SIZES["train"],) and losses.min() >= 0
    run = tmp_path / "run"
    sets = [*keys, "selection.function=reducible_loss", f"il.table={tmp_path / 'folds.parquet'}"]
    train(task_config, run, sets)
    made("export", run, "--out", tmp_path / "points.parquet")
    exported = pq.read_table(tmp_path / "points.parquet")
    assert exported["irreducible_loss"].to_pylist() == losses.tolist()
    assert exported["label"].null_count == exported["suspected_noisy"].null_count == len(losses)
    assert min(exported["last_loss"].to_pylist()) >= 0


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("mean", r"losses: for 2 points gave \[\], allowed Losses of a tensor \[2\]"),
        ("two columns", r"losses: for 2 points gave \[2, 2\]"),
        ("float", "losses: for 2 points gave float"),
        ("mean for all", r"losses: got others, by .*, for 4 points alone than among 8, .* no mean"),
        ("centred", "losses: got others, by .* points alone than among"),
        ("NaN", "losses: got nan and no finite one of 8 points"),
        ("random", "losses: got others when those of the same 8 points were computed again"),
        ("counting", "losses: got others when those of the same 8 points were computed again"),
        ("ranked", "losses: got others, by .*, for 8 points in reverse order"),
    ],
)
def test_losses_that_do_not_depend_on_their_point_alone(
    task_config: Path, tmp_path: Path, how: str, told: str
) -> None:
    wrong = ["task.name=task_code:Wrong", f"task.args.how={how}"]
    refused(task_config, tmp_path, [*settings("two inputs"), *wrong], told)


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["task.name=clasification"], "task.name: got 'clasification', allowed classification, "),
        (["task.name=no_such:T"], "task.name: got 'no_such:T', but module 'no_such' cannot be"),
        (["task.name=task_code:NoTask"], "task.name task_code:NoTask: gave a NoTask, allowed a"),
        (["task.args.speed=1"], "task.name task_code:Fit: failed with TypeError.*'speed': 1"),
        (["task.name=task_code:Dropping"], "data.dataset 'task_code:Points': "),
        (["selection.function=bald"], "'bald': needs the logits and labels of a classifier, got"),
        (["task.name=classification"], "data.dataset 'task_code:Points': items 0: got "),
    ],
    ids=["a typo", "no module", "no task", "argument", "dropped points", "logits", "other items"],
)
def test_tasks_that_cannot_be_used(
    task_config: Path, tmp_path: Path, sets: list[str], told: str
) -> None:
    refused(task_config, tmp_path, [*settings("two inputs"), *sets], told)


def refused(config: Path, tmp_path: Path, sets: list[str], told: str) -> None:
    """In one line, before a folder is made."""
    import re

    result = rhoctl("train", config, "--run-dir", tmp_path / "run", *words(sets))
    assert result.code == 2, result.err
    assert re.search(told, result.err) and result.err.count("\n") == 1, result.err
    assert not (tmp_path / "run").exists()
