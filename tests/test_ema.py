"""`trainer.ema`: the average is evaluated and shipped, and training does not notice; with two
optimizers, micro-batches and label smoothing, as whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.swa_utils import update_bn

import threaded
from rhoselect.compute import threads
from rhoselect.config import load
from rhoselect.inputs import open_inputs
from rhoselect.trainer.candidates import next_candidates
from rhoselect.trainer.records import weights_sha256
from support import hashes, made, rhoctl

DECAY = 0.7
SETS = ["model.factory=user_code:Dropped", "model.args={}", "trainer.steps=8"]
SETS += ["trainer.groups=[{dims = [2], optimizer = {name = 'Muon'}}]", "trainer.micro_batches=2"]
SETS += ["trainer.label_smoothing=0.1", "trainer.warmup_steps=2", "scorer.precision=fp32"]
SETS += ["trainer.eval_every=4", "trainer.checkpoint_every=4", "trainer.lr=0.02"]
LEARNER = "learner.model."
CPU = torch.device("cpu")


def train(config: Path, run: Path, *more: str) -> None:
    keys = [*SETS, *more]
    made("train", config, "--run-dir", run, *(word for key in keys for word in ("--set", key)))


def weights(run: Path, name: str = "model") -> dict[str, Tensor]:
    return load_file(run / f"{name}.safetensors")


def evaluations(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in ("step", "accuracy", "loss")} for line in lines]


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.fixture(scope="module")
def runs(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs without and with an average, and one that was resumed."""
    folder = tmp_path_factory.mktemp("ema")
    train(tiny_config, folder / "plain", "trainer.checkpoint_every=1", "trainer.keep_checkpoints=9")
    train(tiny_config, folder / "ema", f"trainer.ema={DECAY}")
    train(tiny_config, folder / "again", f"trainer.ema={DECAY}")
    for name in ("checkpoints/step-000000008.safetensors", "steps.parquet", "summary.json"):
        (folder / "again" / name).unlink()
    made("train", "--resume", "--run-dir", folder / "again")
    return folder


def test_training_does_not_notice(runs: Path) -> None:
    assert hashes(runs / "ema")[0] == hashes(runs / "plain")[0]
    assert_same(weights(runs / "ema", "model-live"), weights(runs / "plain"))
    assert not (runs / "plain" / "model-live.safetensors").exists()


def test_what_is_evaluated_and_shipped_is_the_average(runs: Path, tiny_config: Path) -> None:
    """By the plain formula, over the weights after each step."""
    inputs = open_inputs(load(tiny_config, SETS))
    live = [inputs.new_model().state_dict()]
    for step in range(1, 9):
        kept = weights(runs / "plain", f"checkpoints/step-{step:09d}")
        live.append({name.removeprefix(LEARNER): tensor for name, tensor in kept.items()})
    model = inputs.new_model()
    names = [name for name, _ in model.named_parameters()]
    average = {name: live[0][name].double() for name in names}
    for each in live[1:]:
        average = {name: DECAY * average[name] + (1 - DECAY) * each[name] for name in names}
    found = weights(runs / "ema")
    for name in names:
        torch.testing.assert_close(found[name], average[name].float(), rtol=1e-5, atol=1e-7)

    model.load_state_dict(found)
    assert hashes(runs / "ema")[1] == weights_sha256(model)
    points = inputs.test.read(inputs.test.indices, CPU)
    with torch.no_grad():
        loss = F.cross_entropy(model.eval()(points.inputs), points.labels).item()
    assert evaluations(runs / "ema")[-1]["loss"] == pytest.approx(loss)
    assert evaluations(runs / "ema") != evaluations(runs / "plain")


def test_its_batchnorm_statistics_are_those_of_candidates(runs: Path, tiny_config: Path) -> None:
    inputs = open_inputs(load(tiny_config, SETS))
    model, found = inputs.new_model(), weights(runs / "ema")
    model.load_state_dict(found)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with threads(1):
        update_bn((batch.inputs for batch in next_candidates(inputs, 8, CPU)), model)
    assert_same(dict(model.state_dict()), found)


def test_a_resume_changes_nothing(runs: Path) -> None:
    assert hashes(runs / "again") == hashes(runs / "ema")
    assert evaluations(runs / "again") == evaluations(runs / "ema")
    for name in ("model", "model-live"):
        assert_same(weights(runs / "again", name), weights(runs / "ema", name))


def test_any_number_of_threads(runs: Path, tiny_config: Path, tmp_path: Path) -> None:
    threaded.run(tiny_config, tmp_path / "3", 3, [*SETS, f"trainer.ema={DECAY}"])
    assert hashes(tmp_path / "3") == hashes(runs / "ema")


def test_an_export_uses_the_average(runs: Path, tiny_config: Path, tmp_path: Path) -> None:
    made("export", runs / "ema", "--out", tmp_path / "points.parquet")
    inputs = open_inputs(load(tiny_config, SETS))
    model, points = inputs.new_model(), inputs.train.read(inputs.train.indices, CPU)
    model.load_state_dict(weights(runs / "ema"))
    with torch.no_grad():
        logits = model.eval()(points.inputs)
    losses = F.cross_entropy(logits, points.labels, reduction="none").numpy()
    last = pq.read_table(tmp_path / "points.parquet")["last_loss"].to_numpy()
    np.testing.assert_allclose(last, losses, rtol=1e-4, atol=1e-6)


def test_an_average_of_nothing_new_is_refused(tiny_config: Path, tmp_path: Path) -> None:
    result = rhoctl("train", tiny_config, "--run-dir", tmp_path, "--set", "trainer.ema=1.0")
    assert result.code == 2 and "trainer.ema: got 1.0; input should be less than 1" in result.err
