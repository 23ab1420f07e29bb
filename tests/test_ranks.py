"""Data-parallel training: the points selected and the final weights are those of Algorithm 1 with
micro-batches, whatever the number of devices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import oracle
import ranked
from rhoselect.compute import seed_step, threads
from rhoselect.config import load
from rhoselect.inputs import open_inputs
from rhoselect.queue.memory import MemoryQueue
from rhoselect.ranks import Alone, picks
from rhoselect.ranks.scores import packed, unpacked
from rhoselect.selector.picker import PickedPoints
from rhoselect.trainer.build import build_follower
from rhoselect.trainer.records import selected_sha256, weights_sha256
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.types import ChunkScores, Ticket
from support import hashes, made

CPU = torch.device("cpu")
PARTS, STEPS, LR = 4, 6, 0.02
SETS = [f"trainer.micro_batches={PARTS}", f"trainer.steps={STEPS}", f"trainer.lr={LR}"]
SETS += ["selection.bn=running", "trainer.eval_every=3", "trainer.checkpoint_every=3"]
MODELS = {
    "mlp": ["model.factory=rhoselect.models:mlp", "model.args={width = 32}"],
    "cnn": ["model.factory=rhoselect.models:resnet18_small", "model.args={width = 4}"],
    "transformer": ["model.factory=user_code:Attending", "model.args={}"],
}


def matrix(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.matrix)


def words(keys: list[str]) -> list[str]:
    return [word for key in keys for word in ("--set", key)]


def summary(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found


def algorithm_1(
    config: Path, model: str, total: Callable[[list[Tensor]], Tensor]
) -> tuple[str, str]:
    """The two hashes of plain torch."""
    inputs = open_inputs(load(config, [*SETS, *MODELS[model]]))
    network, plan, points, il = inputs.new_model(), inputs.plan, inputs.train, inputs.scoring.il
    assert il is not None

    def losses(network: nn.Module, indices: Tensor) -> Tensor:
        batch = points.read(indices.numpy(), CPU)
        return F.cross_entropy(network(batch.inputs), batch.labels, reduction="none")

    rows = [points.index_of(plan.indices(plan.window(step))) for step in range(STEPS)]
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
            total=total,
            optimizer=lambda parameters: torch.optim.AdamW(parameters, LR, fused=True),
            seed=lambda step, part: seed_step(inputs.config.seed, step, CPU, part),
        )
    return selected_sha256(each.numpy() for each in selected), weights_sha256(network)


@pytest.mark.parametrize(
    ("model", "devices"),
    [
        ("mlp", 2),
        matrix("mlp", 1),
        matrix("mlp", 4),
        matrix("cnn", 1),
        matrix("cnn", 2),
        matrix("cnn", 4),
        matrix("transformer", 1),
        matrix("transformer", 2),
        matrix("transformer", 4),
    ],
)
def test_any_number_of_devices_is_algorithm_1(
    tiny_config: Path, tmp_path: Path, model: str, devices: int
) -> None:
    ranked.run(tiny_config, tmp_path / "run", devices, [*SETS, *MODELS[model]])
    assert hashes(tmp_path / "run") == algorithm_1(tiny_config, model, oracle.in_pairs)
    assert hashes(tmp_path / "run") != algorithm_1(tiny_config, model, oracle.far_first)


METHODS = {
    "features": ["selection.function=divbs"],
    "a state": ["selection.function=reducr"],
    "a shortlist": ["selection.shortlist=2", "selection.rescore=scorers"],
    "no forward": ["selection.function=uniform"],
    "no windows": ["selection.function=infobatch", "selection.n_B=8", "selection.chunk=8"],
    "estimated BatchNorm": [*MODELS["cnn"], "selection.bn=auto"],
    "fewer chunks than devices": ["selection.chunk=32"],
}


@pytest.mark.matrix
@pytest.mark.parametrize("method", METHODS)
def test_any_method_selects_the_same(tiny_config: Path, tmp_path: Path, method: str) -> None:
    for devices in (1, 4):
        ranked.run(tiny_config, tmp_path / str(devices), devices, [*SETS, *METHODS[method]])
    assert hashes(tmp_path / "4") == hashes(tmp_path / "1")


@pytest.mark.matrix
@pytest.mark.parametrize(("model", "devices"), [("mlp", 2), ("cnn", 4)])
def test_fast_sums_repeat_for_one_number_of_devices(
    tiny_config: Path, tmp_path: Path, model: str, devices: int
) -> None:
    """And differ from the tree in last bits alone."""
    tree, one, other = tmp_path / "tree", tmp_path / "one", tmp_path / "other"
    fast = [*SETS, *MODELS[model], "trainer.reduce=fast"]
    ranked.run(tiny_config, tree, devices, fast[:-1])
    ranked.run(tiny_config, one, devices, fast)
    ranked.run(tiny_config, other, devices, fast, "split")
    assert hashes(one) == hashes(other)
    models = [load_file(run / "model.safetensors") for run in (one, tree)]
    torch.testing.assert_close(*models, rtol=1e-4, atol=1e-6)
    for run, exact_for in ((one, devices), (tree, None)):
        told = summary(run)
        assert (told["devices"], told["exact_for_devices"]) == (devices, exact_for)


@pytest.mark.matrix
def test_fast_sums_go_on_with_another_number_of_devices(tiny_config: Path, tmp_path: Path) -> None:
    """Correct within rounding, which the summary tells."""
    run = tmp_path / "run"
    keys = [*SETS, *MODELS["mlp"], "trainer.reduce=fast", "trainer.devices=2", "trainer.steps=3"]
    made("train", tiny_config, "--run-dir", run, *words(keys))
    later = [f"trainer.steps={STEPS}", "trainer.devices=4"]
    made("train", "--resume", "--run-dir", run, *words(later))
    told = summary(run)
    assert (told["exact"], told["devices"], told["exact_for_devices"]) == (False, 4, 4)
    assert told["inexact_because"].startswith("resumed at step 3 with gradients summed by another")


@pytest.mark.matrix
@pytest.mark.parametrize("lag", [0, 1])
def test_ranks_that_only_train_are_given_the_batches(
    tiny_config: Path, tmp_path: Path, lag: int
) -> None:
    sets = [*SETS, *MODELS["transformer"], f"selection.lag={lag}"]
    for devices in (1, 2):
        ranked.run(tiny_config, tmp_path / str(devices), devices, sets, "split")
    assert hashes(tmp_path / "2") == hashes(tmp_path / "1")


def test_given_points_come_back_from_bytes() -> None:
    numbers = np.array([5, 2], np.int64)
    for weights in (None, torch.tensor([0.5, 2.0])):
        found = picks.unpacked(
            picks.packed(PickedPoints(numbers, numbers + 1, [3.0, 1.0], weights))
        )
        np.testing.assert_array_equal(found.indices, numbers)
        np.testing.assert_array_equal(found.epochs, numbers + 1)
        assert (found.weights is None) == (weights is None)
        assert found.weights is None or torch.equal(found.weights, torch.tensor([0.5, 2.0]))


def test_scores_come_back_from_bytes() -> None:
    none = np.empty(0, np.uint64)
    features = np.arange(6, dtype=np.float32).reshape(2, 3)
    chunks = {
        3: ChunkScores(np.array([5, 2], np.uint64), np.array([-0.5, 0.0]), none, features),
        7: ChunkScores(none, np.empty(0), np.array([9], np.uint64)),
    }
    found = dict(unpacked(packed(chunks)))
    assert found.keys() == chunks.keys()
    for chunk, scores in chunks.items():
        for name in ("positions", "scores", "rejected", "features"):
            np.testing.assert_array_equal(getattr(found[chunk], name), getattr(scores, name))


def test_one_device_is_a_run_as_ever(tiny_config: Path, tmp_path: Path) -> None:
    keys = words([*SETS, *MODELS["mlp"], "trainer.reduce=fast"])  # without effect on its bits
    made("train", tiny_config, "--run-dir", tmp_path / "run", *keys)
    told = summary(tmp_path / "run")
    assert (told["devices"], told["exact_for_devices"]) == (1, 1)
    assert hashes(tmp_path / "run") == algorithm_1(tiny_config, "mlp", oracle.in_pairs)


class Second(Alone):
    """A rank whose lead sends nothing."""

    rank, size = 1, 2


class Noted(MemoryQueue):
    """Notes who asks for chunks: the slot, and the number of lanes."""

    def __init__(self) -> None:
        super().__init__(lease_s=30.0)
        self.asked = list[tuple[int, int]]()

    def claim(self, worker: int, timeout_s: float, lanes: int = 1, *args: Any) -> Ticket | None:
        self.asked.append((worker, lanes))
        return super().claim(worker, timeout_s, lanes, *args)


def test_a_rank_learns_of_scorers_that_come(tiny_config: Path, tmp_path: Path) -> None:
    keys = ["trainer.micro_batches=2", "trainer.devices=2", "cluster.mode=colocated"]
    inputs, queue = open_inputs(load(tiny_config, keys)), Noted()
    folder = RunFolder.create(tmp_path / "run", inputs.config, inputs.sha256)
    follower = build_follower(inputs, folder, queue, Second(), workers=1)
    follower.begin(0)
    follower.step(0)
    assert {*queue.asked} == {(2, 3)}
    follower.share(3)
    follower.step(1)
    assert queue.asked[-1] == (4, 5)
