"""``rhoctl export``: a row for every point of the train split, by plain references."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from rhoselect.config import load
from rhoselect.inputs import open_inputs
from rhoselect.models import mlp
from support import CLASSES, made, rhoctl

STEPS, N_B, N_b = 60, 64, 8


@pytest.fixture(scope="module")
def exported(mixed_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """The table, and what the command said."""
    out = tmp_path_factory.mktemp("export") / "new" / "points.parquet"
    said = made("export", mixed_run, "--out", out, "--device", "cpu").out
    return pq.read_table(out), said


def test_every_point_has_its_labels_and_irreducible_loss(
    exported: tuple[Any, str], mixed_run: Path
) -> None:
    table, _ = exported
    run = open_inputs(load(mixed_run / "config.toml"))
    train = run.train
    assert table["index"].to_pylist() == list(range(train.start, train.stop))
    assert table["label"].to_pylist() == train.labels(train.indices).tolist()
    clean = train.clean_labels(train.indices)
    assert clean is not None
    assert table["clean_label"].to_pylist() == clean.tolist()
    origins = train.origins(train.indices)
    assert set(origins.source) == {"train"}
    assert table["source"].to_pylist() == origins.source.tolist()
    assert table["source_row"].to_pylist() == origins.row.tolist() != table["index"].to_pylist()
    assert table["label_name"].null_count == len(table), "these classes have no names"
    il = pq.read_table(mixed_run.with_name("il.parquet"))
    assert table["irreducible_loss"].to_pylist() == il["irreducible_loss"].to_pylist()
    metadata = json.loads(table.schema.metadata[b"rhoselect"])
    assert metadata["fingerprint"] == run.dataset.fingerprint
    assert (metadata["method"], metadata["steps"]) == ("reducible_loss", STEPS)


def test_counts_are_those_of_the_plan_and_of_the_steps(
    exported: tuple[Any, str], mixed_run: Path
) -> None:
    """Counted step by step; more than one epoch, and with points that are never candidates."""
    table, _ = exported
    run = open_inputs(load(mixed_run / "config.toml"))
    seen: Counter[int] = Counter()
    for step in range(STEPS):
        seen.update(run.plan.indices(run.plan.window(step)).tolist())
    selected: Counter[int] = Counter()
    last: dict[int, int] = {}
    for row in pq.read_table(mixed_run / "steps.parquet").to_pylist():
        selected.update(row["indices"])
        last |= dict.fromkeys(row["indices"], row["step"])
    indices = table["index"].to_pylist()
    assert table["times_seen"].to_pylist() == [seen[i] for i in indices]
    assert table["times_selected"].to_pylist() == [selected[i] for i in indices]
    assert table["step_last_selected"].to_pylist() == [last.get(i) for i in indices]
    assert max(seen.values()) > 2
    assert None in table["step_last_selected"].to_pylist()


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 2e-2)])
def test_last_losses_are_those_of_the_final_weights(
    tiny_config: Path, tmp_path: Path, precision: str, tolerance: float
) -> None:
    run, out = tmp_path / "run", tmp_path / "points.parquet"
    made("train", tiny_config, "--run-dir", run, "--set", f"scorer.precision={precision}")
    made("export", run, "--out", out, "--device", "cpu")
    train = open_inputs(load(run / "config.toml")).train
    stored = load_file(run / "checkpoints" / "step-000000020.safetensors")
    model = mlp(input_shape=(1, 16, 16), classes=CLASSES, width=32).eval()
    prefix = "learner.model."
    model.load_state_dict(
        {n.removeprefix(prefix): t for n, t in stored.items() if n.startswith(prefix)}
    )
    batch = train.read(train.indices, torch.device("cpu"))
    low = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.no_grad(), low:
        losses = F.cross_entropy(model(batch.inputs).float(), batch.labels, reduction="none")
    last = pq.read_table(out)["last_loss"].to_numpy()
    np.testing.assert_allclose(last, losses.numpy(), rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_is_evaluated_in_the_precision_of_training(
    tiny_config: Path, tmp_path: Path, precision: str
) -> None:
    other = {"fp32": "bf16", "bf16": "fp32"}[precision]
    keys = (f"trainer.precision={precision}", f"scorer.precision={other}", "trainer.steps=10")
    run = tmp_path / "run"
    made("train", tiny_config, "--run-dir", run, *(w for key in keys for w in ("--set", key)))
    test = open_inputs(load(run / "config.toml")).test
    model = mlp(input_shape=(1, 16, 16), classes=CLASSES, width=32)
    model.load_state_dict(load_file(run / "model.safetensors"))
    batch = test.read(test.indices, torch.device("cpu"))
    losses = {}
    for enabled in (False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = F.cross_entropy(model(batch.inputs).float(), batch.labels)
        losses["bf16" if enabled else "fp32"] = loss.item()
    recorded = json.loads((run / "eval.jsonl").read_text())["loss"]
    assert abs(recorded - losses[precision]) < 1e-6 < abs(recorded - losses[other])


def test_flags_are_what_the_guide_says(exported: tuple[Any, str]) -> None:
    chance, sure = math.log(CLASSES), -math.log(0.9)
    kinds = Counter()
    for row in exported[0].to_pylist():
        losses = (row["irreducible_loss"], row["last_loss"])
        rare = row["times_selected"] / row["times_seen"] <= N_b / N_B if row["times_seen"] else True
        assert row["suspected_noisy"] == (min(losses) > chance and rare)
        assert row["redundant"] == (max(losses) < sure and row["times_selected"] == 0)
        kinds[row["suspected_noisy"], row["redundant"]] += 1
    assert kinds[True, False] > 0 < kinds[False, True]


def test_suspects_are_wrong_labels_and_what_is_redundant_is_right(
    exported: tuple[Any, str],
) -> None:
    """The irreducible losses of this run know the truth, so the flags must find most of it."""
    table, said = exported
    wrong = table["label"].to_numpy() != table["clean_label"].to_numpy()
    suspected, redundant = (
        table[name].to_numpy(zero_copy_only=False) for name in ("suspected_noisy", "redundant")
    )
    assert not (suspected & ~wrong).any()
    assert suspected.sum() > 0.7 * wrong.sum()
    assert not (redundant & wrong).any()
    assert redundant.sum() > 0.1 * len(wrong)
    numbers = (len(wrong), suspected.sum(), redundant.sum(), wrong.sum(), suspected.sum())
    assert tuple(map(int, re.findall(r" (\d+) ", said))) == numbers


def test_rows_and_names_are_those_of_the_source(tiny_config: Path, tmp_path: Path) -> None:
    """Of a CSV of one column a feature, of which two thirds of the rows have moved."""
    names = ["ash", "elm", "fir", "oak"]
    lines = [f"{row},{row % 7},{names[row % 4]}" for row in range(300)]
    (tmp_path / "trees.csv").write_text("\n".join(["a,b,kind", *lines]) + "\n")
    words = ("--columns", "kind", "--test", "0.2", "--holdout", "0.3")
    made("data", "import", "csv", tmp_path / "trees.csv", tmp_path / "data", *words)
    config = tmp_path / "plain.toml"
    config.write_text(re.sub(r"\[il\]\ntable = .*\n", "", tiny_config.read_text()))
    keys = (f"data.path={tmp_path / 'data'}", "trainer.steps=1", "selection.function=uniform")
    sets = [word for key in keys for word in ("--set", key)]
    made("train", config, "--run-dir", tmp_path / "run", *sets)
    made("export", tmp_path / "run", "--out", tmp_path / "points.parquet")
    rows = pq.read_table(tmp_path / "points.parquet").to_pylist()
    assert len(rows) == 168 and rows[-1]["source_row"] > 200
    for row in rows:
        assert row["source"] == "trees.csv"
        assert lines[row["source_row"]].endswith(f",{row['label_name']}")
        assert names[row["label"]] == row["label_name"]


def test_without_irreducible_losses_there_are_no_flags(
    mixed_run: Path, tiny_config: Path, tmp_path: Path
) -> None:
    """Nobody knows, which is not the same as no."""
    config = tmp_path / "plain.toml"
    config.write_text(re.sub(r"\[il\]\ntable = .*\n", "", tiny_config.read_text()))
    steps = ("--set", "trainer.steps=1", "--set", "selection.function=uniform")
    made("train", config, "--run-dir", tmp_path / "run", *steps)
    made("export", tmp_path / "run", "--out", tmp_path / "points.parquet")
    table = pq.read_table(tmp_path / "points.parquet")
    for name in ("irreducible_loss", "suspected_noisy", "redundant"):
        assert table[name].null_count == len(table) == 400
    assert table["last_loss"].null_count == 0


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    mixed_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(mixed_run, tmp_path / "run"))
    out = tmp_path / "new" / "points.parquet"

    def refused(pattern: str, *words: str | Path) -> None:
        result = rhoctl("export", *words)
        assert (result.code, result.out) == (2, "")
        assert re.fullmatch(rf"rhoctl: .*{pattern}.*\n", result.err), result.err
        assert not out.parent.exists()

    refused(
        "--out .*points.csv: got '.csv', allowed .parquet", run, "--out", out.with_suffix(".csv")
    )
    refused("--device: got 'moon', allowed auto", run, "--out", out, "--device", "moon")
    (run / "inputs_sha256").write_text("another")
    refused("its data, irreducible losses or first weights have changed", run, "--out", out)
    shutil.copy(mixed_run / "inputs_sha256", run)
    (run / "checkpoints" / f"step-{STEPS:09d}.safetensors").unlink()
    refused(f"the checkpoint of its last step, {STEPS}, is missing", run, "--out", out)
    (run / "summary.json").unlink()
    refused("has no summary.json; allowed a finished run", run, "--out", out)
