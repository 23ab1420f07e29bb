"""The irreducible-loss model that goes on learning (eq. 2): a second network in every snapshot."""

from __future__ import annotations

import copy
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import threaded
from rhoselect.compute import threads
from rhoselect.config import load
from rhoselect.inputs import open_inputs
from rhoselect.metrics import Metrics
from rhoselect.models import mlp
from rhoselect.models.build import build_model
from rhoselect.queue.memory import MemoryQueue
from rhoselect.runtime.local import run_serial
from rhoselect.snapshots.local import LocalStore
from rhoselect.trainer.build import build_trainer
from rhoselect.trainer.records import selected_sha256, weights_sha256
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.types import TopK
from support import CLASSES, made, rhoctl

HASHES = ("selected_sha256", "weights_sha256")
SHAPE, WIDTH = (1, 16, 16), 16


def updated(il_weights: Path, factor: float = 0.3) -> list[str]:
    return [
        "selection.function=updated_reducible_loss",
        f"il.weights={il_weights}",
        f"il.update_lr_factor={factor}",
        "scorer.precision=fp32",
        "trainer.lr=0.01",
    ]


def train(config: Path, run: Path, sets: list[str], workers: int = 0) -> dict[str, Any]:
    flags = [word for item in sets for word in ("--set", item)]
    made("train", config, "--run-dir", run, "--workers", str(workers), *flags)
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def adamw(network: torch.nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), lr=lr, fused=True)


def sgd(network: torch.nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=lr)


OPTIMIZERS = {"AdamW": adamw, "SGD": sgd}


def plain_loop(
    config: Path, sets: list[str], il_weights: Path, factor: float, optimizer_of: str
) -> tuple[list[torch.Tensor], torch.nn.Module]:
    """Algorithm 1 with eq. 2: after each step the IL model takes one on the same points, at
    ``factor`` of the rate."""
    inputs = open_inputs(load(config, sets))
    points, plan, lr = inputs.train, inputs.plan, inputs.config.trainer.lr
    trainer = build_model("rhoselect.models:mlp", {"width": 32}, SHAPE, CLASSES, inputs.config.seed)
    il = mlp(input_shape=SHAPE, classes=CLASSES, width=WIDTH)
    il.load_state_dict(load_file(il_weights))
    networks = ((trainer, lr), (il, lr * factor))
    optimizers = [OPTIMIZERS[optimizer_of](network, rate) for network, rate in networks]
    selected = []
    for step in range(inputs.config.trainer.steps):
        window = torch.from_numpy(points.index_of(plan.indices(plan.window(step))))
        scores = []
        for chunk in window.split(inputs.config.selection.chunk):
            batch = points.read(chunk.numpy(), torch.device("cpu"))
            with torch.no_grad():
                own, other = (
                    F.cross_entropy(copy.deepcopy(n)(batch.inputs), batch.labels, reduction="none")
                    for n in (trainer, il)
                )
            scores.append(own - other)
        best = window[torch.cat(scores).argsort(descending=True, stable=True)[:8]]
        batch = points.read(best.numpy(), torch.device("cpu"))
        for (network, _), optimizer in zip(networks, optimizers, strict=True):
            optimizer.zero_grad()
            losses = F.cross_entropy(network(batch.inputs), batch.labels, reduction="none")
            losses.mean().backward()
            if factor or network is trainer:
                optimizer.step()
        selected.append(best)
    return selected, trainer


@pytest.mark.parametrize(("factor", "optimizer"), [(0.0, "AdamW"), (0.3, "AdamW"), (0.3, "SGD")])
def test_a_run_does_what_a_plain_loop_with_two_networks_does(
    tiny_config: Path, tmp_path: Path, il_weights: Path, factor: float, optimizer: str
) -> None:
    sets = [*updated(il_weights, factor), f"trainer.optimizer.name={optimizer}"]
    summary = train(tiny_config, tmp_path / "run", sets)
    with threads(1):
        selected, model = plain_loop(tiny_config, sets, il_weights, factor, optimizer)
    assert summary["selected_sha256"] == selected_sha256(s.numpy() for s in selected)
    assert summary["weights_sha256"] == weights_sha256(model)
    forward = [2 * (256 * w + w * w + w * CLASSES) for w in (32, WIDTH)]
    assert summary["flops"]["score"] == 20 * 64 * sum(forward)
    assert summary["il_seconds"] > 0 and summary["flops"]["il"] > 0


def test_learning_matters(tiny_config: Path, tmp_path: Path, il_weights: Path) -> None:
    still, learning = (
        train(tiny_config, tmp_path / str(factor), updated(il_weights, factor))
        for factor in (0, 0.3)
    )
    assert still["selected_sha256"] != learning["selected_sha256"]


@pytest.mark.matrix
@pytest.mark.timeout(240)
def test_any_number_of_workers(
    ray_session: None, tiny_config: Path, tmp_path: Path, il_weights: Path
) -> None:
    sets = [*updated(il_weights), "selection.lag=2"]
    alone = train(tiny_config, tmp_path / "0", sets)
    shared = train(tiny_config, tmp_path / "3", sets, workers=3)
    assert [shared[key] for key in HASHES] == [alone[key] for key in HASHES]


def test_any_number_of_threads(tiny_config: Path, tmp_path: Path, il_weights: Path) -> None:
    sets = [*updated(il_weights), "selection.lag=2"]
    alone = train(tiny_config, tmp_path / "0", sets)
    shared, _ = threaded.run(tiny_config, tmp_path / "3", 3, sets)
    assert [shared[key] for key in HASHES] == [alone[key] for key in HASHES]


class CrashingQueue(MemoryQueue):
    """A queue that stops the process when it is asked for window 13."""

    def pop(self, window: int, k: int, timeout_s: float, shortlist: bool = False) -> TopK | None:
        if window == 13:
            raise KeyboardInterrupt
        return super().pop(window, k, timeout_s, shortlist)


@pytest.mark.parametrize("lag", [0, 2])
def test_the_second_network_survives_a_crash(
    tiny_config: Path, tmp_path: Path, il_weights: Path, lag: int
) -> None:
    """With its optimizer, and, at a lag, in the snapshots that open windows use."""
    sets = [*updated(il_weights), f"selection.lag={lag}"]
    whole = train(tiny_config, tmp_path / "whole", sets)
    inputs = open_inputs(load(tiny_config, sets))
    folder = RunFolder.create(tmp_path / "run", inputs.config)
    queue = CrashingQueue(lease_s=60)
    trainer = build_trainer(inputs, folder, queue, LocalStore(), Metrics(), workers=0)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    resumed = run_serial(inputs, RunFolder.resume(folder.path), nullcontext)
    assert [resumed[key] for key in HASHES] == [whole[key] for key in HASHES]


def test_a_model_that_cannot_serve_is_refused(
    tiny_config: Path, dataset_dir: Path, tmp_path: Path, il_weights: Path
) -> None:
    foreign = tmp_path / "seen.safetensors"
    fit = ("il", "fit", "--data", dataset_dir, "--out", tmp_path / "il", "--weights-out", foreign)
    made(*fit, "--model", "rhoselect.models:mlp", "--split", "train", "--overlap", "allow")
    cases = {
        "il.weights=no/file": "no/file: no such file",
        f"il.weights={__file__}": "not a file of 'rhoctl il fit --weights-out'",
        f"il.weights={foreign}": "overlap the train split",
    }
    for setting, told in cases.items():
        sets = [word for item in [*updated(il_weights), setting] for word in ("--set", item)]
        result = rhoctl(
            "train", tiny_config, "--run-dir", tmp_path / "run", "--workers", "0", *sets
        )
        assert (result.code, result.err.count("\n")) == (2, 1)
        assert told in result.err
    function = ("--set", "selection.function=updated_reducible_loss")
    result = rhoctl("train", tiny_config, "--run-dir", tmp_path / "run", *function)
    assert result.code == 2 and "il.weights: missing" in result.err
    assert not (tmp_path / "run").exists()
