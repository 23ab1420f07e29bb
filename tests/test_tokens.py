"""`selection.tokens`: the tokens of greatest excess loss are trained on, as in a plain loop."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import threaded
from oracle import any_task
from rhoselect.config import load
from rhoselect.data import token_losses
from rhoselect.data.il_table import IlMetadata, IlTable, read_table, write_table
from rhoselect.data.token_losses import COLUMN, TokenLosses
from rhoselect.errors import ConfigError, IrreducibleLossError
from rhoselect.inputs import open_inputs
from rhoselect.selection.tokens import TokenSelection, best
from rhoselect.selector.build import servable
from rhoselect.trainer.fit import FitOptions, irreducible_config, score_reference
from rhoselect.types import Losses
from support import hashes, made, rhoctl
from task_code import SIZES, Points

STEPS, n_b, n_B, CHUNK, LR, SHARE = 6, 4, 16, 8, 3e-3, 0.6
DATA, MODEL = "task_code:Points", "task_code:Recurrent"
TASK = ["data.args.kind=sequence", "task.name=causal_lm"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Losses of tokens by two models, each of the points that the other learnt from."""
    path = tmp_path_factory.mktemp("tokens") / "il.parquet"
    how = ["--folds", "2", "--batch", "8", "--epochs", "2", "--tokens"]
    made("il", "fit", "--data", DATA, "--model", MODEL, "--out", path, *how, *words(TASK))
    return path


@pytest.fixture(scope="module")
def config(table: Path) -> Path:
    path = table.with_name("run.toml")
    path.write_text(
        f"""
data = {{ dataset = "{DATA}", args = {{ kind = "sequence" }} }}
task.name = "causal_lm"
model.factory = "{MODEL}"
il.table = "{table}"
selection = {{ n_b = {n_b}, n_B = {n_B}, chunk = {CHUNK}, tokens = {SHARE} }}
scorer = {{ precision = "fp32", device = "cpu" }}
trainer = {{ steps = {STEPS}, lr = {LR}, checkpoint_every = 4, device = "cpu" }}
metrics.port = -1
"""
    )
    return path


def words(sets: list[str]) -> list[str]:
    return [word for item in sets for word in ("--set", item)]


def train(config: Path, run: Path, *sets: str) -> None:
    made("train", config, "--run-dir", run, "--workers", "0", *words(list(sets)))


def plain_tokens(model: nn.Module, items: list[list[int]]) -> list[Tensor]:
    longest, found = max(map(len, items)), []
    padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in items])
    for ids, log_p in zip(items, model(padded, padded).log_softmax(2), strict=True):
        each = [-log_p[place - 1, ids[place]] for place in range(1, len(ids))]
        found.append(torch.stack(each))
    return found


@pytest.mark.parametrize("function", ["uniform", "reducible_loss"])
def test_a_run_trains_on_the_tokens_of_greatest_excess_loss(
    config: Path, table: Path, tmp_path: Path, function: str
) -> None:
    sets = [f"selection.function={function}"]
    train(config, tmp_path / "run", *sets)
    inputs, points = open_inputs(load(config, sets)), Points("train", "sequence")
    torch.set_num_threads(inputs.config.trainer.threads)
    rows = pq.read_table(tmp_path / "run" / "steps.parquet")
    known = pq.read_table(table).to_pydict()
    plain_means = list[float]()

    def losses(network: nn.Module, indices: Tensor) -> Tensor:
        each = plain_tokens(network, [points[i] for i in indices.tolist()])
        means = torch.stack([tokens.mean() for tokens in each])
        if not torch.is_grad_enabled():
            return means  # of candidates
        plain_means.append(means.mean().item())
        flat = torch.cat(each)
        reference = [loss for i in indices.tolist() for loss in known[COLUMN][i]]
        excess = (flat.detach() - torch.tensor(reference)).tolist()
        ranked = sorted(range(len(excess)), key=lambda place: (-excess[place], place))
        return flat[ranked[: round(SHARE * len(ranked))]].mean()

    windows = [torch.from_numpy(inputs.plan.indices(inputs.plan.window(t))) for t in range(STEPS)]
    if function == "uniform":
        windows = [torch.tensor(row) for row in rows["indices"].to_pylist()]
    il, model = torch.tensor(known["irreducible_loss"]), inputs.new_model().train()
    selected = any_task(model, windows, losses, il, n_b=n_b, chunk=CHUNK, lr=LR)
    order: Any = sorted if function == "uniform" else list
    chosen = [order(row.tolist()) for row in selected]
    assert chosen == [order(row) for row in rows["indices"].to_pylist()]
    assert rows["loss"].to_pylist() == pytest.approx(plain_means, rel=1e-4)
    found = load_file(tmp_path / "run" / "model.safetensors")
    torch.testing.assert_close(found, dict(model.state_dict()), rtol=1e-4, atol=1e-6)


def test_scorers_and_a_resume_change_nothing(config: Path, tmp_path: Path) -> None:
    cut = tmp_path / "0"
    train(config, cut)
    whole = hashes(cut)
    threaded.run(config, tmp_path / "2", 2, [])
    assert hashes(tmp_path / "2") == whole
    *_, newest = sorted(cut.glob("checkpoints/step-*"))
    for path in (newest, cut / "steps.parquet", cut / "summary.json"):
        path.unlink()
    made("train", "--resume", "--run-dir", cut)
    assert hashes(cut) == whole


def test_the_column_has_the_losses_of_each_predicted_token(table: Path) -> None:
    config = irreducible_config(DATA, MODEL, [*TASK, "trainer.device=cpu"])
    found, model = score_reference(config, FitOptions(tokens=True))
    points = Points("train", "sequence")
    with torch.no_grad():
        expected = plain_tokens(model, [points[i] for i in range(SIZES["train"])])
    assert found.tokens is not None
    assert found.tokens.counts.tolist() == [len(each) for each in expected]
    np.testing.assert_allclose(found.tokens.values, torch.cat(expected), rtol=1e-4, atol=1e-5)
    rows = pq.read_table(table).to_pydict()
    means = [np.mean(each) for each in rows[COLUMN]]
    np.testing.assert_allclose(means, rows["irreducible_loss"], rtol=1e-5)


def test_a_table_of_tokens_comes_back_in_parts_and_from_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of points with many tokens, few and none; others may write tables, too."""
    monkeypatch.setattr(token_losses, "GROUP_TOKENS", 4)
    monkeypatch.setattr(token_losses, "READ_ROWS", 3)
    counts, path = [0, 3, 9, 0, 1, 2, 0, 0, 5, 0], tmp_path / "il.parquet"
    tokens = TokenLosses.of(counts, np.arange(sum(counts), dtype=np.float32))
    about = IlMetadata("f", "m", "w", "holdout", (0, 0), "fp32", "now", "test", 0.0, 0)
    write_table(path, IlTable(4, np.ones(10, np.float32), about, tokens))
    assert pq.read_metadata(path).num_row_groups > 3
    for order in (range(10), np.random.default_rng(0).permutation(10)):
        rows = pq.read_table(path)
        pq.write_table(rows.take(pa.array(order)).cast(rows.schema), path, row_group_size=4)
        back = read_table(path, "f", (4, 14), cache=tmp_path / "cache", tokens=True).tokens
        part = read_table(path, "f", (5, 9), cache=tmp_path / "cache", tokens=True).tokens
        assert back is not None and part is not None
        assert back.counts.tolist() == counts
        assert np.array_equal(back.values, tokens.values)
        taken = part.take(np.array([3, 0, 1]))
        assert taken.counts.tolist() == [1, 3, 9]
        assert taken.values.tolist() == [12, 0, 1, 2, *range(3, 12)]


def test_of_equal_excess_losses_the_earlier_are_kept() -> None:
    excess = torch.tensor([1.0, 2.0, 1.0, 1.0, 3.0])
    assert best(excess, 0.6).tolist() == [True, True, False, False, True]
    assert best(excess, 1e-9).sum() == 1
    assert best(excess[:0], 0.5).tolist() == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda i, each: each[i == 0 :],
            f"il.table: {COLUMN} of index 0 has . losses, allowed ., ",
        ),
        (
            lambda i, each: each[i > 9 :],
            f"il.table: {COLUMN} of index .. has . losses, allowed ., ",
        ),
        (lambda i, each: [np.nan, *each[1:]] if i == 7 else each, "of index 7 are not finite"),
        (lambda i, each: [], f"{COLUMN} has no losses, allowed those of each predicted token"),
        (None, f"has no column {COLUMN}, which selection.tokens needs; make it with 'rhoctl il"),
    ],
    ids=["other tokens", "other tokens later", "NaN", "no losses", "no column"],
)
def test_a_table_of_other_tokens_is_refused(
    config: Path, table: Path, tmp_path: Path, change: Any, told: str
) -> None:
    path, rows = tmp_path / "il.parquet", pq.read_table(table)
    lists, rows = rows[COLUMN].to_pylist(), rows.drop_columns([COLUMN])
    if change is not None:
        changed = [change(i, each) for i, each in enumerate(lists)]
        rows = rows.append_column(COLUMN, pa.array(changed, pa.list_(pa.float32())))
    pq.write_table(rows, path)
    refused(["train", config, "--run-dir", tmp_path / "run", *words([f"il.table={path}"])], told)


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["selection.tokens=0"], r"selection.tokens: got 0"),
        (["selection.tokens=1.5"], r"selection.tokens: got 1.5"),
        (["selection.tokens=nan"], r"selection.tokens: got nan"),
        (["trainer.micro_batches=2"], r"selection.tokens: got 0.6 with trainer.micro_batches = 2"),
        (["il.table="], r"il.table"),
    ],
    ids=["zero", "above one", "NaN", "micro-batches", "no table"],
)
def test_settings_that_do_not_go_together(
    config: Path, tmp_path: Path, sets: list[str], told: str
) -> None:
    refused(["train", config, "--run-dir", tmp_path / "run", *words(sets)], told)


def test_a_task_without_losses_of_tokens(tmp_path: Path) -> None:
    fit = ["il", "fit", "--data", DATA, "--reference", "task_code:TwoViews", "--tokens"]
    sets = words(["data.args.kind=views", "task.name=task_code:Fit"])
    told = "task.name: got a task without losses of tokens, allowed one"
    refused([*fit, "--out", tmp_path / "il.parquet", *sets], told)


def test_what_a_task_gives_and_who_trains_is_checked(table: Path, config: Path) -> None:
    with pytest.raises(ConfigError, match=r"selection.tokens: got 0.6, allowed 1 for a loop of"):
        servable(load(config, []))
    rows = pq.read_table(table)[COLUMN].to_pylist()
    known = TokenLosses.of([len(each) for each in rows], np.concatenate(rows))
    about = IlMetadata("", "", "", "", (0, 0), "", "", "", 0.0, 0)
    selection = TokenSelection(0.5, IlTable(0, np.zeros(len(rows), np.float32), about, known))
    found, indices = Losses(torch.ones(2)), np.arange(2)
    with pytest.raises(ConfigError, match="a task without losses of tokens"):
        selection.losses(found, indices)
    tokens = torch.ones(2, 9)
    with pytest.raises(ConfigError, match=r"losses of tokens \[2, 9\] with a mask \[2\]"):
        selection.losses(replace(found, tokens=tokens, mask=torch.ones(2)), indices)
    with pytest.raises(IrreducibleLossError, match=r"of index 0 has . losses, allowed 9"):
        selection.losses(replace(found, tokens=tokens, mask=tokens), indices)


def refused(arguments: list[Any], told: str) -> None:
    result = rhoctl(*arguments)
    assert result.code == 2, result.err
    assert re.search(told, result.err) and result.err.strip().count("\n") == 0, result.err
