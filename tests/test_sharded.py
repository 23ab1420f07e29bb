"""``trainer.parallel = "fsdp"``: parts of a model on several devices learn what the whole
learns, to the same bits for the same number of devices."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import oracle
from rhoselect.compute import seed_step, threads
from rhoselect.config import load
from rhoselect.errors import ConfigError, RunFolderError
from rhoselect.inputs import open_inputs
from rhoselect.ranks.blocks import blocks
from rhoselect.trainer import checkpoint as checkpoints
from rhoselect.trainer import records
from rhoselect.trainer.evaluate import evaluate
from rhoselect.trainer.runfolder import stored_config
from support import ended_well, hashes, made
from user_code import Stacked
from warm import Process

pytestmark = pytest.mark.timeout(240)  # interpreters start, beside other tests
STEPS, PARTS, LR = 6, 4, 0.1
KEYS = ["model.factory=user_code:Stacked", "model.args={}", "trainer.parallel=fsdp"]
KEYS += [f"trainer.micro_batches={PARTS}", f"trainer.lr={LR}", "trainer.optimizer.name=SGD"]
KEYS += ["trainer.eval_every=3", "trainer.checkpoint_every=3", "trainer.clip_norm=0.5"]
PROXIED = ["scorer.proxy=rhoselect.models:mlp", "scorer.proxy_args.width=8"]
TWICE = ["selection.shortlist=3", "selection.temperature=0"]


def matrix(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.matrix)


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


def words(*keys: str) -> list[str]:
    return [word for key in keys for word in ("--set", key)]


def train(config: Path, run: Path, devices: int, *more: str, steps: int = STEPS) -> Path:
    keys = [*KEYS, f"trainer.steps={steps}", f"trainer.devices={devices}", *more]
    made("train", config, "--run-dir", run, *words(*keys))
    return run


def summary(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found


@pytest.fixture(scope="module")
def whole(tiny_config: Path) -> tuple[list[Tensor], nn.Module]:
    """What plain torch selects and learns."""
    inputs = open_inputs(load(tiny_config, [*KEYS, f"trainer.steps={STEPS}"]))
    network, plan, il, cpu = inputs.new_model(), inputs.plan, inputs.scoring.il, torch.device("cpu")
    assert il is not None

    def losses(network: nn.Module, indices: Tensor) -> Tensor:
        batch = inputs.train.read(indices.numpy(), cpu)
        return F.cross_entropy(network(batch.inputs), batch.labels, reduction="none")

    rows = [inputs.train.index_of(plan.indices(plan.window(step))) for step in range(STEPS)]
    selection = inputs.config.selection
    with threads(1):
        selected = oracle.in_parts(
            network,
            map(torch.from_numpy, rows),
            losses,
            torch.from_numpy(il.values),
            n_b=selection.n_b,
            chunk=selection.chunk,
            parts=PARTS,
            total=oracle.in_pairs,
            seed=lambda step, part: seed_step(inputs.config.seed, step, cpu, part),
            optimizer=lambda parameters: torch.optim.SGD(parameters, LR),
            clip_norm=0.5,
        )
    return selected, network


def assert_learnt(run: Path, whole: tuple[list[Tensor], nn.Module]) -> None:
    selected, network = whole
    found = np.concatenate(list(records.read_selected(run)))
    np.testing.assert_array_equal(found, torch.cat(selected).numpy())
    learnt = load_file(run / "model.safetensors")
    torch.testing.assert_close(learnt, network.state_dict(), rtol=1e-4, atol=1e-6)
    inputs = open_inputs(stored_config(run))
    evaluator = inputs.new_evaluator(torch.device("cpu"))
    evaluator.load((name, learnt[name]) for name in evaluator.layout)
    measured = evaluate(inputs, evaluator, lambda: None)
    lines = list(records.read_evaluations(run))
    assert [line["step"] for line in lines] == [STEPS // 2, STEPS]
    assert lines[-1]["loss"] == pytest.approx(measured["loss"])
    assert lines[-1]["class_accuracy"] == measured["class_accuracy"]


@pytest.mark.parametrize("devices", [2, matrix(1), matrix(4)])
def test_parts_learn_what_the_whole_learns(
    tiny_config: Path, tmp_path: Path, whole: tuple[list[Tensor], nn.Module], devices: int
) -> None:
    run = train(tiny_config, tmp_path / "run", devices)
    assert_learnt(run, whole)
    told = summary(run)
    assert (told["exact"], told["devices"], told["exact_for_devices"]) == (True, devices, devices)
    last = run / "checkpoints" / f"step-{STEPS:09d}"
    assert len(list(last.glob("rank-*"))) == devices
    kept = checkpoints.load(last).learner  # whole, as for an export
    for name, tensor in load_file(run / "model.safetensors").items():
        assert torch.equal(kept[f"model.{name}"], tensor), name
    first = last / "rank-0.safetensors"
    first.write_bytes(first.read_bytes()[:-1] + b"x")
    with pytest.raises(RunFolderError, match=r"hash of rank-0\.safetensors is not that"):
        checkpoints.load(last)


@pytest.mark.parametrize("size", [2, matrix(4)])
def test_gathered_weights_are_those_of_the_whole(tmp_path: Path, size: int) -> None:
    program, meeting = Path(__file__).with_name("sharded.py"), tmp_path / "meeting"
    ranks = [Process(str(program), str(rank), str(size), str(meeting)) for rank in range(size)]
    for rank in ranks:
        ended_well(rank)


@pytest.mark.matrix
@pytest.mark.parametrize("size", [2, 4])
def test_no_rank_has_the_whole_model(tiny_config: Path, tmp_path: Path, size: int) -> None:
    """In float32, in any step or evaluation: only the lead does, as long as it writes a file."""
    program, meeting = Path(__file__).with_name("resident.py"), str(tmp_path / "meeting")
    config = str(tiny_config)
    ranks = [Process(str(program), str(r), str(size), meeting, config) for r in range(size)]
    for rank in ranks:
        ended_well(rank)


@pytest.mark.matrix
@pytest.mark.parametrize("then", [1, 2, 4])
def test_a_run_goes_on_with_any_number_of_devices(
    tiny_config: Path, tmp_path: Path, whole: tuple[list[Tensor], nn.Module], then: int
) -> None:
    """To the same bits with the same number."""
    run = train(tiny_config, tmp_path / "run", 2, steps=STEPS // 2)
    keys = [f"trainer.steps={STEPS}", f"trainer.devices={then}"]
    made("train", "--resume", "--run-dir", run, *words(*keys))
    assert_learnt(run, whole)
    told = summary(run)
    if then == 2:
        assert hashes(run) == hashes(train(tiny_config, tmp_path / "other", 2))
        assert told["exact"] is True
    else:
        assert told["exact"] is False
        said = f"devices: trainer's devices (fsdp) '{then}' instead of trainer's devices (fsdp) '2'"
        assert told["inexact_because"].endswith(said)


OPTIMIZERS = {
    "AdamW": ["trainer.optimizer.name=AdamW", "trainer.lr=0.01"],
    "momentum": ["trainer.optimizer={name = 'SGD', args = {momentum = 0.9}}"],
    "bf16": ["trainer.precision=bf16"],
    "no forward": ["selection.function=uniform"],
    "another block": ["trainer.blocks=head"],
    "a proxy": PROXIED,
    "a proxy, re-scored": [*PROXIED, *TWICE],
}


@pytest.mark.matrix
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_repeats(tiny_config: Path, tmp_path: Path, name: str) -> None:
    """Also from a checkpoint in its middle."""
    at_once = train(tiny_config, tmp_path / "at once", 2, *OPTIMIZERS[name])
    resumed = train(tiny_config, tmp_path / "resumed", 2, *OPTIMIZERS[name], steps=STEPS // 2)
    made("train", "--resume", "--run-dir", resumed, *words(f"trainer.steps={STEPS}"))
    assert hashes(resumed) == hashes(at_once)


KINDS = {
    "adapters": ["model.factory=adapted:lora", "snapshots.only=trainable"],
    "groups": ["trainer.groups=[{pattern = '*.bias', lr_factor = 0.1}]"],
    "a state": ["selection.function=reducr"],
    "bf16 scores": ["scorer.precision=bf16"],
    "a proxy": PROXIED,
    "a proxy, re-scored": [*PROXIED, *TWICE, "selection.audit_every=2"],
}


@pytest.mark.matrix
@pytest.mark.parametrize("kind", KINDS)
def test_parts_learn_anything_alike(tiny_config: Path, tmp_path: Path, kind: str) -> None:
    one = train(tiny_config, tmp_path / "one", 1, "trainer.parallel=replicated", *KINDS[kind])
    two = train(tiny_config, tmp_path / "two", 2, *KINDS[kind])
    models = [load_file(run / "model.safetensors") for run in (one, two)]
    torch.testing.assert_close(*models, rtol=1e-4, atol=1e-6)


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("devices", "lag", "more"), [(2, 0, []), (2, 1, []), (1, 1, []), (2, 0, PROXIED)]
)
def test_scorers_beside_them_change_nothing(
    ray_session: None, tiny_config: Path, tmp_path: Path, devices: int, lag: int, more: list[str]
) -> None:
    keys = [f"selection.lag={lag}", "cluster.mode=split", *more]
    run = tmp_path / "run"
    sets = words(*KEYS, *keys, f"trainer.steps={STEPS}", f"trainer.devices={devices}")
    made("train", tiny_config, "--run-dir", run, "--workers", "2", *sets)
    if lag == 0:
        assert hashes(run) == hashes(train(tiny_config, tmp_path / "colocated", devices, *more))
    elif devices == 1:
        assert hashes(run) == hashes(train(tiny_config, tmp_path / "alone", 1, *keys))
    else:
        again = tmp_path / "again"
        made("train", tiny_config, "--run-dir", again, "--workers", "1", *sets)
        assert hashes(run) == hashes(again)


def test_blocks_are_inner_modules_first() -> None:
    model = Stacked((1, 4, 6), 3)
    assert blocks(model, "") == [model.layers[1], model.layers[0]]
    assert blocks(model, "layers.*") == blocks(model, "")
    assert blocks(model, "layers.*.inner") == [model.layers[1].inner, model.layers[0].inner]
    nested = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2)]), nn.ReLU()])
    assert blocks(nn.Sequential(nested), "") == [nested[0][0]]
    within = nn.ModuleList([nn.Sequential(nn.ModuleList([nn.Linear(2, 2)]))])
    assert blocks(nn.Sequential(within), "") == [within[0]]


def test_shared_and_single_parameters_are_refused() -> None:
    model = Stacked((1, 4, 6), 3)
    model.layers[0].outer.bias = model.layers[1].outer.bias
    with pytest.raises(ConfigError, match=r"share a parameter, allowed blocks apart"):
        blocks(model, "")
    assert blocks(model, "head") == [model.head]
    with pytest.raises(ConfigError, match=r"matches layers, allowed modules with a forward"):
        blocks(model, "layers")
    model.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ConfigError, match=r"numbers as parameters \(scale\), allowed tensors"):
        blocks(model, "layers")
