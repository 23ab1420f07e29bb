"""`selection.bn = "auto"`: what is evaluated, kept and shipped has the BatchNorm statistics of
candidates, and training does not notice."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import threaded
from rhoselect.config import load
from rhoselect.inputs import RunInputs, open_inputs
from rhoselect.models import recalibrate_batchnorm
from support import hashes, made

DROPPED = ["model.factory=user_code:Dropped", "model.args={}"]
SHORT = [*DROPPED, "trainer.steps=8", "trainer.eval_every=3", "trainer.checkpoint_every=4"]
LEARNER = "learner.model."
CPU = torch.device("cpu")


class Frozen(nn.BatchNorm1d):
    """Keeps its statistics in training, as for fine-tuning."""

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)


def network(*more: nn.Module) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5, momentum=0.2), *more, nn.Linear(5, 2))


def batches() -> list[Tensor]:
    return [3 + torch.randn(8, 3, generator=torch.Generator().manual_seed(n)) for n in range(6)]


def train(config: Path, run: Path, *sets: str) -> tuple[str, str]:
    made("train", config, "--run-dir", run, *(word for each in sets for word in ("--set", each)))
    return hashes(run)


def evaluations(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in ("step", "accuracy", "loss")} for line in lines]


def kept(run: Path, step: int) -> dict[str, Tensor]:
    """The model in a checkpoint."""
    tensors = load_file(run / "checkpoints" / f"step-{step:09d}.safetensors")
    return {n.removeprefix(LEARNER): t for n, t in tensors.items() if n.startswith(LEARNER)}


def next_windows(inputs: RunInputs, step: int) -> Iterator[Tensor]:
    """The inputs of all candidates after ``step`` steps, an epoch of them, in batches of n_b."""
    n_b, plan, train = inputs.config.selection.n_b, inputs.plan, inputs.train
    windows = [plan.indices(plan.window(step + number)) for number in range(len(train) // 64 + 1)]
    for part in torch.from_numpy(np.concatenate(windows))[: len(train)].split(n_b):
        yield train.read(part.numpy(), CPU).inputs


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def test_new_statistics_are_those_of_torch_s_own_estimate() -> None:
    model, plain = network(), network()
    model.eval()
    recalibrate_batchnorm(model, batches())
    update_bn(batches(), plain)
    assert_same(model.state_dict(), plain.state_dict())
    assert not any(module.training for module in model.modules())
    assert model[1].momentum == 0.2


def test_an_estimate_draws_no_random_numbers() -> None:
    model, plain = network(nn.Dropout(0.5), nn.BatchNorm1d(5)), network(nn.BatchNorm1d(5))
    before = torch.get_rng_state()
    recalibrate_batchnorm(model, batches())
    assert torch.equal(torch.get_rng_state(), before)
    recalibrate_batchnorm(plain, batches())
    assert torch.equal(model[3].running_var, plain[2].running_var)
    assert all(module.training for module in model.modules())


def test_frozen_layers_keep_their_statistics() -> None:
    model = network(Frozen(5), nn.BatchNorm1d(5)).train()
    before = {name: t.clone() for name, t in model[2].state_dict().items()}
    recalibrate_batchnorm(model, batches())
    assert_same(model[2].state_dict(), before)
    assert model[3].running_mean.any()


def test_no_batch_is_refused_and_none_is_taken_in_vain() -> None:
    model = network()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(ValueError, match="batches: got none, allowed at least one"):
        recalibrate_batchnorm(model, [])
    assert_same(model.state_dict(), before)
    source = iter(batches())
    recalibrate_batchnorm(nn.Sequential(nn.Linear(3, 2), nn.Dropout()), source)
    assert len(list(source)) == len(batches())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kept_and_shipped_weights_have_statistics_of_candidates(
    tiny_config: Path, tmp_path: Path, precision: str
) -> None:
    """Against torch's own estimate, from the weights of a run that leaves its statistics alone."""
    sets = [*SHORT, "model.args={dropout = 0.0}", f"trainer.precision={precision}"]
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    auto, batch = tmp_path / "auto", tmp_path / "batch"
    train(tiny_config, auto, *sets)
    train(tiny_config, batch, *sets, "selection.bn=batch")
    assert hashes(auto)[0] == hashes(batch)[0] and hashes(auto)[1] != hashes(batch)[1]
    assert tomllib.loads((auto / "config.toml").read_text())["selection"]["bn"] == "auto"

    inputs = open_inputs(load(auto / "config.toml"))
    torch.set_num_threads(inputs.config.trainer.threads)
    model = inputs.new_model()
    for step in (4, 8):
        model.load_state_dict(kept(batch, step))
        with autocast:
            update_bn(next_windows(inputs, step), model)
        assert_same(kept(auto, step), model.state_dict())
    assert_same(load_file(auto / "model.safetensors"), model.state_dict())

    test = inputs.test.read(inputs.test.indices, CPU)
    with torch.no_grad(), autocast:
        logits = model.eval()(test.inputs).float()
    last = evaluations(auto)[-1]
    assert last["loss"] == pytest.approx(F.cross_entropy(logits, test.labels).item(), abs=1e-6)
    assert last["accuracy"] == (logits.argmax(1) == test.labels).double().mean().item()


def test_scorers_and_evaluations_change_nothing(tiny_config: Path, tmp_path: Path) -> None:
    """Nor does dropout, whose random numbers are those of the step."""
    sets = [*SHORT, "selection.lag=1"]
    expected = train(tiny_config, tmp_path / "0", *sets)
    threaded.run(tiny_config, tmp_path / "2", 2, sets)
    assert hashes(tmp_path / "2") == expected
    assert evaluations(tmp_path / "2") == evaluations(tmp_path / "0")
    often = [*sets, "trainer.eval_every=1", "trainer.checkpoint_every=1"]
    assert train(tiny_config, tmp_path / "often", *often) == expected


def test_a_resume_ends_with_the_same_weights(tiny_config: Path, tmp_path: Path) -> None:
    """From the last checkpoint of a run that was killed before its end, and from the middle."""
    run = tmp_path / "run"
    expected = train(tiny_config, run, *SHORT, "selection.lag=1"), evaluations(run)
    for left in (8, 4):
        for path in run.glob("checkpoints/step-*"):
            if int(path.stem.removeprefix("step-")) > left:
                path.unlink()
        for name in ("steps.parquet", "summary.json", "model.safetensors"):
            (run / name).unlink()
        made("train", "--resume", "--run-dir", run)
        assert (hashes(run), evaluations(run)) == expected


def test_a_uniform_run_gets_the_same_treatment(tiny_config: Path, tmp_path: Path) -> None:
    """So that a comparison is fair."""
    sets = [*DROPPED, "selection.function=uniform", "trainer.steps=2"]
    selected, weights = train(tiny_config, tmp_path / "auto", *sets)
    plain = train(tiny_config, tmp_path / "running", *sets, "selection.bn=running")
    assert selected == plain[0] and weights != plain[1]


def test_without_batchnorm_the_three_are_one(tiny_config: Path, tmp_path: Path) -> None:
    modes = ("auto", "running", "batch")
    sets = ("trainer.steps=4", "trainer.checkpoint_every=2")
    runs = {train(tiny_config, tmp_path / bn, *sets, f"selection.bn={bn}") for bn in modes}
    assert len(runs) == 1
