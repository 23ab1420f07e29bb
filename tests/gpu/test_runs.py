"""Runs on the device: Algorithm 1's bits with any number of workers; fits; a loop of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from gpu_helpers import Train, fit

from oracle import algorithm_1
from rhoselect.client import SelectionClient
from rhoselect.compute import repeatable
from rhoselect.config import load
from rhoselect.inputs import open_inputs
from rhoselect.trainer.records import selected_sha256, weights_sha256

MODELS = {
    "mlp": ["model.factory=rhoselect.models:mlp"],
    "resnet": ["model.factory=rhoselect.models:resnet18_small", "model.args={width = 8}"],
}
SHORT = "trainer.steps=8"


def hashes(summary: dict[str, object]) -> tuple[object, object]:
    return summary["selected_sha256"], summary["weights_sha256"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("model", "bn"), [("mlp", "running"), ("resnet", "running"), ("resnet", "batch")]
)
def test_lag_0_is_algorithm_1(
    device: torch.device, config: Path, train: Train, model: str, bn: str, precision: str
) -> None:
    """The oracle trains on the same device in plain torch."""
    sets = [*MODELS[model], SHORT, f"scorer.precision={precision}", f"selection.bn={bn}"]
    found = train("run", 0, *sets)
    inputs = open_inputs(load(config, sets))
    settings, points, plan = inputs.config, inputs.train, inputs.plan
    assert inputs.scoring.il is not None
    twin = inputs.new_model().to(device).train()

    def read(indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        batch = points.read(indices.numpy(), device)
        return batch.inputs, batch.labels

    torch.set_num_threads(settings.trainer.threads)
    steps = range(settings.trainer.steps)
    with repeatable(device):
        selected = algorithm_1(
            twin,
            [torch.from_numpy(points.index_of(plan.indices(plan.window(t)))) for t in steps],
            read,
            torch.from_numpy(np.array(inputs.scoring.il.values)),
            n_b=settings.selection.n_b,
            chunk=settings.selection.chunk,
            lr=settings.trainer.lr,
            autocast={"fp32": None, "bf16": torch.bfloat16}[precision],
            batch_statistics=bn == "batch",
        )
    expected = selected_sha256(each.numpy() for each in selected), weights_sha256(twin)
    assert hashes(found) == expected


@pytest.mark.parametrize("model", MODELS)
def test_any_number_of_workers(train: Train, model: str) -> None:
    sets = [*MODELS[model], SHORT]
    alone = train("0", 0, *sets)
    assert alone.get("exact", True) is True
    for workers in (1, 2):
        assert hashes(train(str(workers), workers, *sets)) == hashes(alone), f"{workers} workers"


@pytest.mark.parametrize(
    "keys",
    [
        ["scorer.quantize=int8"],
        ["scorer.graph=true"],
        ["scorer.graph=true", "scorer.quantize=fp8", "compute.tf32=all"],
        ["scorer.graph=true", "scorer.compile=true"],
    ],
    ids=" ".join,
)
def test_forms_of_a_forward_with_any_number_of_workers(
    device: torch.device, train: Train, keys: list[str]
) -> None:
    if device.type == "cpu" and "scorer.graph=true" in keys:
        pytest.skip("a CPU has no graphs")
    sets = [*MODELS["mlp"], SHORT, *keys]
    assert hashes(train("2", 2, *sets)) == hashes(train("0", 0, *sets))


def test_stale_scores_are_the_same_whoever_scores_again(train: Train) -> None:
    sets = [*MODELS["resnet"], SHORT, "selection.lag=1"]
    alone = train("0", 0, *sets)
    assert alone["max_staleness_steps"] == 1
    assert hashes(train("2", 2, *sets, "selection.rescore=scorers")) == hashes(alone)


def test_irreducible_losses_are_fitted_on_the_device(
    device: torch.device, ground: tuple[Path, Path], tmp_path: Path
) -> None:
    data, table = ground
    held = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.max_memory_allocated()
    again = tmp_path / "again.parquet"
    fit(data, again)
    one, two = (pq.read_table(each)["irreducible_loss"] for each in (table, again))
    assert one.equals(two), "a fit repeats bit for bit"
    if device.type == "cuda":
        assert torch.cuda.max_memory_allocated() > held, "nothing was on the device"


def test_a_loop_of_ones_own_gets_batches_on_its_device(
    device: torch.device,
    config: Path,
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And its torch keeps its settings, between steps and after them."""
    monkeypatch.chdir(tmp_path)
    expected = train("run", 0)
    inputs = open_inputs(load(config))
    model = inputs.new_model().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    selection, selected = SelectionClient(model, local=True, config=config), []
    for batch in selection:
        assert {batch.inputs.device.type, batch.labels.device.type} == {device.type}
        assert batch.weights.device.type == device.type
        assert not torch.are_deterministic_algorithms_enabled()
        losses = F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
        optimizer.zero_grad()
        (losses * batch.weights).mean().backward()
        optimizer.step()
        selection.step(model, losses)
        selected.append(batch.indices)
    assert len(selected) == inputs.config.trainer.steps
    if device.type == "cpu":  # on CUDA the loop's own kernels may differ from run to run
        assert selected_sha256(each.numpy() for each in selected) == expected["selected_sha256"]


def test_a_loop_may_use_kernels_that_do_not_repeat(
    device: torch.device, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deterministic mode is the scorers' alone: this backward would raise under it on CUDA."""
    monkeypatch.chdir(tmp_path)
    model = open_inputs(load(config)).new_model().to(device)
    selection = SelectionClient(model, local=True, config=config)
    batch = next(iter(selection))
    inputs = batch.inputs.clone().requires_grad_()
    F.adaptive_avg_pool2d(inputs, 3).sum().backward()
    assert inputs.grad is not None


def test_weights_of_losses_without_a_weight_are_on_the_device(
    device: torch.device, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``losses(model, batch)`` of the user's own may multiply by ``batch.weights``."""
    monkeypatch.chdir(tmp_path)
    inputs, labels = torch.randn(64, 4), torch.randint(2, (64,))
    data = torch.utils.data.TensorDataset(inputs, labels)
    model = torch.nn.Linear(4, 2).to(device)

    def losses(model, batch):  # type: ignore[no-untyped-def]
        each = F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
        return each * batch.weights

    settings = {"selection": {"n_b": 4, "n_B": 16, "chunk": 16}, "trainer": {"steps": 2}}
    given = {"data": data, "irreducible_losses": torch.zeros(64), "losses": losses}
    selection = SelectionClient(model, local=True, config=settings, **given)
    for batch in selection:
        assert batch.inputs.device.type == device.type
        selection.step(model)
