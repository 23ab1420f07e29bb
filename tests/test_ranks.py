"""Data-parallel training: the points selected and the final weights are those of Algorithm 1 with
micro-batches, whatever the number of devices."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import oracle
import ranked
from rhoselect.compute import seed_step, threads
from rhoselect.config import load
from rhoselect.errors import ConfigError, LostRankError
from rhoselect.inputs import open_inputs
from rhoselect.ranks import picks
from rhoselect.ranks.gloo import FIRST_BYTES, HEAD_BYTES, GlooGroup
from rhoselect.ranks.scores import packed, unpacked
from rhoselect.selector.picker import PickedPoints
from rhoselect.trainer.records import selected_sha256, weights_sha256
from rhoselect.types import ChunkScores
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
        matrix("mlp", 4),
        pytest.param("cnn", 2, marks=pytest.mark.matrix),
        ("transformer", 4),
        matrix("mlp", 1),
        matrix("mlp", 2),
        matrix("cnn", 1),
        matrix("cnn", 4),
        matrix("transformer", 1),
        matrix("transformer", 2),
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


def together(size: int, meeting: Path, call: Callable[[GlooGroup], Any]) -> list[Any]:
    """What ``call`` gives at each of so many ranks, which are threads."""

    def one(rank: int) -> Any:
        return call(GlooGroup(rank, size, meeting, 20.0))

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


@pytest.mark.parametrize("size", [2, 4, 8])
def test_sums_are_those_of_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Bit for bit, of any shapes and types, also where some ranks or all have no value, and of a
    large one, which is sent in parts."""
    random = torch.Generator().manual_seed(0)
    monkeypatch.setattr("rhoselect.ranks.gloo.PART", 30_000)
    shapes = [(7,), (), (3, 5), (1, 2, 2), (1000,), (250, 200)]
    f32 = torch.float32
    types = [f32, torch.float64, torch.bfloat16, f32, f32, f32]
    like = [torch.empty(s, dtype=d) for s, d in zip(shapes, types, strict=True)]
    values: list[list[Tensor | None]] = [
        [torch.randn(each.shape, generator=random).to(each.dtype) for each in like]
        for _ in range(size)
    ]
    columns = [[rank[n] for rank in values] for n in range(len(like))]
    expected = [oracle.in_pairs([c for c in column if c is not None]) for column in columns]
    assert not torch.equal(expected[4], oracle.far_first(columns[4])) or size == 2  # type: ignore[arg-type]
    first = values[0][3]
    transposed = values[1][5]
    assert transposed is not None
    values[1][5] = transposed.t().contiguous().t()
    for rank in values:
        rank[1] = None
        rank[3] = first.clone() if rank is values[0] and first is not None else None
    found = together(size, tmp_path / "meeting", lambda g: g.total(list(values[g.rank]), like))
    for totals in found:
        assert totals[1] is None
        assert torch.equal(totals[3], first)
        for row in (0, 2, 4, 5):
            assert torch.equal(totals[row], expected[row]), row


def test_zeros_keep_their_sign(tmp_path: Path) -> None:
    """A rank without a gradient changes none."""
    zeros = torch.tensor([0.0, -0.0])
    found = together(
        2, tmp_path / "m", lambda g: g.total([zeros.clone() if g.rank else None], [zeros])
    )
    for (total,) in found:
        assert total.signbit().tolist() == [False, True]


def test_sparse_gradients_are_refused(tmp_path: Path) -> None:
    sparse = torch.eye(3).to_sparse()
    with pytest.raises(ConfigError, match=r"sparse gradients, allowed 1"):
        together(2, tmp_path / "m", lambda g: g.total([sparse], [torch.eye(3)]))


def test_a_rank_that_does_not_come_is_an_error(tmp_path: Path) -> None:
    def call(group: GlooGroup) -> None:
        if group.rank == 0:
            with pytest.raises(LostRankError, match=r"rank 0 lost another one"):
                group.gathered(b"")

    with ThreadPoolExecutor(2) as pool:
        groups = pool.map(lambda rank: GlooGroup(rank, 2, tmp_path / "m", 1.0), range(2))
        list(map(call, groups))


def test_bytes_are_gathered_by_rank(tmp_path: Path) -> None:
    edge = FIRST_BYTES - HEAD_BYTES
    for turn, last in enumerate((b"\0\0\0\0", b"x" * edge, b"x" * edge + b"yz")):
        parts = [b"", b"1", b"22 ", last]
        meeting = tmp_path / str(turn)
        assert together(4, meeting, lambda g, p=parts: g.gathered(p[g.rank])) == [parts] * 4


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
    words = [word for key in [*SETS, *MODELS["mlp"]] for word in ("--set", key)]
    made("train", tiny_config, "--run-dir", tmp_path / "run", *words)
    assert hashes(tmp_path / "run") == algorithm_1(tiny_config, "mlp", oracle.in_pairs)
