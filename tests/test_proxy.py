"""``scorer.proxy``: a smaller network that learns from the batches which it selects for another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ranked
import threaded
from rhoselect.comparison.arms import uniform_keys
from rhoselect.compute import threads
from rhoselect.config import load
from rhoselect.grids.recipes import assignments
from rhoselect.inputs import open_inputs
from rhoselect.metrics import Metrics
from rhoselect.models import mlp
from rhoselect.models.build import build_model
from rhoselect.planning.layouts import colocated_seconds
from rhoselect.planning.model import Exchange, Messages, Parts, step_seconds
from rhoselect.queue.memory import MemoryQueue
from rhoselect.snapshots.local import LocalStore
from rhoselect.trainer import checkpoint as checkpoints
from rhoselect.trainer.build import build_trainer, run_trainer
from rhoselect.trainer.records import selected_sha256, weights_sha256
from rhoselect.trainer.rehearsal import rehearse
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.types import PROXY
from support import CLASSES, hashes, made, start, until

CPU = torch.device("cpu")
SHAPE, WIDTH, STEPS, N_B = (1, 16, 16), 8, 6, 8
PROXIED = ["scorer.proxy=rhoselect.models:mlp", f"scorer.proxy_args.width={WIDTH}"]
SETS = [*PROXIED, f"trainer.steps={STEPS}", "trainer.lr=0.01", "scorer.proxy_lr_factor=0.5"]
TWICE = ["selection.shortlist=3", "selection.temperature=0"]


def words(sets: list[str]) -> list[str]:
    return [word for each in sets for word in ("--set", each)]


def train(config: Path, run: Path, sets: list[str], workers: int = 0) -> dict[str, Any]:
    made("train", config, "--run-dir", run, "--workers", str(workers), *words(sets))
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def plain_loop(config: Path, shortlist: int) -> tuple[list[Tensor], nn.Module, nn.Module]:
    """Both networks take each step on the same points: the best by the small one or, with a
    shortlist, by the large one among the best ``shortlist`` times as many by the small one."""
    inputs = open_inputs(load(config, SETS))
    points, plan, il = inputs.train, inputs.plan, inputs.scoring.il
    assert il is not None
    target, proxy = (
        build_model("rhoselect.models:mlp", {"width": width}, SHAPE, CLASSES, inputs.config.seed)
        for width in (32, WIDTH)
    )
    pairs = [
        (network, torch.optim.AdamW(network.parameters(), lr=lr, fused=True))
        for network, lr in ((target, 0.01), (proxy, 0.005))
    ]

    def losses(network: nn.Module, indices: Tensor) -> Tensor:
        batch = points.read(indices.numpy(), CPU)
        return F.cross_entropy(network(batch.inputs), batch.labels, reduction="none")

    def best(network: nn.Module, candidates: Tensor, count: int) -> Tensor:
        chunks = candidates.split(inputs.config.selection.chunk)
        with torch.no_grad():
            found = torch.cat([losses(network, chunk) for chunk in chunks])
        scores = found - torch.from_numpy(il.values)[candidates]
        return candidates[scores.argsort(descending=True, stable=True)[:count]]

    selected = []
    for step in range(STEPS):
        candidates = torch.from_numpy(points.index_of(plan.indices(plan.window(step))))
        chosen = best(proxy, candidates, shortlist * N_B)
        chosen = best(target, chosen, N_B) if shortlist > 1 else chosen
        for network, optimizer in pairs:
            optimizer.zero_grad()
            losses(network, chosen).mean().backward()
            optimizer.step()
        selected.append(chosen)
    return selected, target, proxy


@pytest.mark.parametrize("shortlist", [pytest.param(1, marks=pytest.mark.matrix), 3])
def test_a_run_does_what_a_plain_loop_with_two_networks_does(
    tiny_config: Path, tmp_path: Path, shortlist: int
) -> None:
    sets = [*SETS, *(TWICE if shortlist > 1 else [])]
    summary = train(tiny_config, tmp_path / "run", sets)
    with threads(1):
        selected, target, proxy = plain_loop(tiny_config, shortlist)
    assert hashes(tmp_path / "run") == (
        selected_sha256(each.numpy() for each in selected),
        weights_sha256(target),
    )
    found = checkpoints.load_newest(tmp_path / "run")
    assert found is not None
    for name, tensor in proxy.state_dict().items():
        assert torch.equal(found.learner[f"{PROXY}model.{name}"], tensor)
    large, small = (2 * (256 * w + w * w + w * CLASSES) for w in (32, WIDTH))
    again = shortlist * N_B if shortlist > 1 else 0
    assert summary["flops"]["score"] == STEPS * (64 * small + again * large)
    inputs = 2 * 256 * (32 + WIDTH)  # their gradients are not computed
    assert summary["flops"]["train"] == STEPS * N_B * (3 * (large + small) - inputs)


def test_a_weak_proxy_is_said_before_a_run(
    tiny_config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for width, said in ((1, True), (WIDTH, False)):
        caplog.clear()
        rehearse(open_inputs(load(tiny_config, [*PROXIED, f"scorer.proxy_args.width={width}"])))
        assert ("scorer.proxy: its network has 0.028 of" in caplog.text) == said


def test_only_its_weights_are_sent(tiny_config: Path) -> None:
    layout = open_inputs(load(tiny_config, PROXIED)).new_replica(CPU).layout
    own = mlp(input_shape=SHAPE, classes=CLASSES, width=WIDTH).state_dict()
    assert {n: t.shape for n, t in layout.items()} == {PROXY + n: t.shape for n, t in own.items()}


def test_a_step_of_a_plan_has_that_of_the_proxy_and_the_second_stage() -> None:
    silent = Messages(0.0, 0.0, 0.0, 0.0)
    times = {"train_s": 0.1, "forward_s": 0.01, "forward_cpu_s": 0.01, "read_s": 0.0, "load_s": 0.0}
    plain = Parts(8, 2, True, **times, within=silent, between=silent, cores=None, slowdown=1.0)
    parts = replace(plain, proxy_s=0.02, rescore_s=0.03)
    assert step_seconds(parts, 0) == pytest.approx(0.1 + 0.02 + 8 * 0.01 + 0.03)
    halved = replace(parts, share_s=(0.06,))
    assert colocated_seconds(halved, 2) == pytest.approx(0.06 + 0.012 + 4 * 0.01 + 0.03)
    summed = replace(halved, exchange=Exchange(0.001, 0.0, 0.0, proxy_sum_s=0.005))
    sums_s = colocated_seconds(summed, 2) - colocated_seconds(halved, 2)
    assert sums_s == pytest.approx(2 * 0.001 + 0.005), "of the model's gradients and the proxy's"


WAYS = {
    "fresh": [],
    "stale": ["selection.lag=1", "selection.shortlist=1"],
    "stale, re-scored": ["selection.lag=1", "selection.rescore=scorers"],
    "fresh, re-scored": [*TWICE, "selection.audit_every=2"],
    "two second networks": ["selection.function=updated_reducible_loss"],
    "BatchNorm": [
        "model={factory = 'rhoselect.models:resnet18_small', args = {width = 4}}",
        "scorer.proxy=rhoselect.models:resnet18_small",
        "scorer.proxy_args.width=2",
        "trainer.steps=4",
        "scorer.precision=bf16",
    ],
    "features": ["selection.function=divbs"],
    "adapters": [
        "model={factory = 'adapted:Adapted', args = {}}",
        "scorer.proxy=adapted:Adapted",
        "scorer.proxy_args={}",
        "snapshots.only=trainable",
        *TWICE,
    ],
}


def in_long(first: str, *others: str) -> list[Any]:
    """The first in ``make test-long``, the others in ``make test-matrix``."""
    rest = [pytest.param(each, marks=pytest.mark.matrix) for each in others if each != first]
    return [pytest.param(first, marks=pytest.mark.long), *rest]


@pytest.mark.parametrize("way", in_long("fresh, re-scored", *WAYS))
def test_any_number_of_threads(
    tiny_config: Path, tmp_path: Path, il_weights: Path, way: str
) -> None:
    sets = [*SETS, f"il.weights={il_weights}", *WAYS[way]]
    alone = train(tiny_config, tmp_path / "0", sets)
    shared, _ = threaded.run(tiny_config, tmp_path / "2", 2, sets)
    assert hashes(tmp_path / "2") == hashes(tmp_path / "0")
    assert shared["flops"] == alone["flops"]


@pytest.mark.parametrize("way", in_long("stale", "fresh", "fresh, re-scored", "adapters"))
def test_a_resume_changes_nothing(tiny_config: Path, tmp_path: Path, way: str) -> None:
    sets = [*SETS, *WAYS[way]]
    train(tiny_config, tmp_path / "whole", sets)
    train(tiny_config, tmp_path / "parts", [*sets, "trainer.steps=3"])
    steps = ("--set", f"trainer.steps={STEPS}")
    made("train", "--resume", "--run-dir", tmp_path / "parts", *steps)
    assert hashes(tmp_path / "parts") == hashes(tmp_path / "whole")


@pytest.mark.matrix
def test_a_kill_and_a_resume_change_nothing(tiny_config: Path, tmp_path: Path) -> None:
    sets = [*SETS, "selection.lag=1", "trainer.steps=200", "trainer.checkpoint_every=10"]
    train(tiny_config, tmp_path / "whole", sets)
    run = tmp_path / "killed"
    process = start("train", tiny_config, "--run-dir", run, *words(sets))
    until(lambda: any(run.glob("checkpoints/step-*")), process)
    process.kill()
    process.communicate()
    assert not (run / "summary.json").exists()
    made("train", "--resume", "--run-dir", run)
    assert hashes(run) == hashes(tmp_path / "whole")


def test_the_uniform_arms_of_a_comparison_have_none(tiny_config: Path) -> None:
    inputs = open_inputs(load(tiny_config, [*PROXIED, *assignments(uniform_keys(N_B))]))
    assert not inputs.scoring.needs.forward and not inputs.config.scorer.proxy


@pytest.mark.matrix
@pytest.mark.timeout(240)
@pytest.mark.parametrize("way", ["fresh", "stale", "stale, re-scored", "fresh, re-scored"])
def test_any_number_of_workers(
    ray_session: None, tiny_config: Path, tmp_path: Path, way: str
) -> None:
    for workers in (0, 1, 2):
        train(tiny_config, tmp_path / str(workers), [*SETS, *WAYS[way]], workers)
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2") == hashes(tmp_path / "0")


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("way", "mode"),
    [
        ("fresh", "colocated"),
        ("fresh, re-scored", "colocated"),
        ("fresh", "split"),
        ("stale, re-scored", "split"),
    ],
)
def test_any_number_of_devices(tiny_config: Path, tmp_path: Path, way: str, mode: str) -> None:
    sets = [*SETS, *WAYS[way], "trainer.micro_batches=4"]
    for devices in (1, 2, 4):
        ranked.run(tiny_config, tmp_path / str(devices), devices, sets, mode)
    assert hashes(tmp_path / "2") == hashes(tmp_path / "4") == hashes(tmp_path / "1")


@pytest.mark.matrix
def test_an_audit_compares_it_with_the_model_that_trains(tiny_config: Path, tmp_path: Path) -> None:
    inputs = open_inputs(load(tiny_config, [*SETS, "selection.audit_every=5"]))
    folder, metrics = RunFolder.create(tmp_path / "run", inputs.config), Metrics()
    queue, store = MemoryQueue(60), LocalStore(lends=True)
    trainer = build_trainer(inputs, folder, queue, store, metrics, workers=0)
    run_trainer(inputs, folder, trainer, workers=0)
    [agreement] = next(iter(metrics.audits["rank_agreement"].collect())).samples
    assert 0 < agreement.value < 1, "its scores are fresh, and others than the model's"


@pytest.mark.matrix
def test_irreducible_losses_are_of_its_size_by_default(dataset_dir: Path, tmp_path: Path) -> None:
    command = ("il", "fit", "--data", dataset_dir, "--epochs", "1", "--batch", "64")
    named = ("--model", "rhoselect.models:mlp", "--set", f"model.args.width={WIDTH}")
    made(*command, "--out", tmp_path / "named", *named)
    made(*command, "--out", tmp_path / "default", *words(PROXIED))
    made(*command, "--out", tmp_path / "other", *words(PROXIED), *named[:2])
    losses = {n: pq.read_table(tmp_path / n)["irreducible_loss"] for n in ("named", "default")}
    assert losses["named"] == losses["default"]
    assert losses["named"] != pq.read_table(tmp_path / "other")["irreducible_loss"]
