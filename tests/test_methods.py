"""The selection methods beside RHO-LOSS, each against plain torch, then in real runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import threaded
from rhoselect.compute import seed_points, threads
from rhoselect.config import load
from rhoselect.errors import ConfigError
from rhoselect.inputs import open_inputs
from rhoselect.models.build import build_model
from rhoselect.models.numerics import Numerics
from rhoselect.models.replica import Replica
from rhoselect.selection import Needs, ScoreFunction, Scoring, Shortlist, get_function
from rhoselect.selection.coreset import read_core_set
from rhoselect.selection.functions import BUILT_IN
from rhoselect.tasks import Classification
from rhoselect.types import Batch, ForwardOutput
from support import made

TASK = Classification()

CPU = torch.device("cpu")
POINTS, SHAPE, CLASSES = 40, (6,), 5
HASHES = ("selected_sha256", "weights_sha256")


def batch(points: int = POINTS, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(points, *SHAPE, generator=random)
    labels = torch.randint(CLASSES, (points,), generator=random)
    return Batch(np.arange(100, 100 + points, dtype=np.int64), (inputs, labels))


def model(seed: int = 0, head_bias: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, CLASSES, bias=head_bias))


def dropped(seed: int = 0) -> nn.Module:
    """With running statistics that are no initial ones."""
    network = build_model("user_code:Dropped", {}, SHAPE, CLASSES, seed).train()
    network(batch(seed=9).inputs)
    return network


def output(network: nn.Module, needs: Needs, points: Batch) -> ForwardOutput:
    return Replica(network, Numerics("fp32"), CPU, TASK, needs=needs, seed=7)(points)


def shortlist(function: ScoreFunction, network: nn.Module, points: Batch) -> Shortlist:
    """All points as a trainer gets them, but for their order."""
    forward = output(network, function.needs, points)
    scores, features = Scoring(function, None)(points.indices, forward, {})
    return Shortlist(points.indices, scores, features)


def gradients(network: nn.Sequential, points: Batch) -> Tensor:
    """Of each point's loss with respect to the last layer, by autograd, [C, D] float64."""
    head, rows = list(network[-1].requires_grad_(True).parameters()), []
    for x, y in zip(points.inputs, points.labels, strict=True):
        parts = torch.autograd.grad(F.cross_entropy(network(x[None]), y[None]), head)
        rows.append(torch.cat([part.flatten() for part in parts]).double())
    return torch.stack(rows)


# Gradient norms


@pytest.mark.parametrize("head_bias", [True, False])
def test_gradient_norms_are_those_of_the_last_layer_by_autograd(head_bias: bool) -> None:
    network, points = model(head_bias=head_bias), batch()
    norms = shortlist(get_function("gradient_norm"), network, points).scores
    np.testing.assert_allclose(norms, gradients(network, points).norm(dim=1), rtol=1e-4)


def test_importance_sampling_estimates_the_gradient_of_the_window_without_bias() -> None:
    function, network, points = get_function("gradient_norm_is"), model(), batch()
    candidates, each = shortlist(function, network, points), gradients(network, points)
    draws, n_b, estimates, unweighted = 4000, 4, [], []
    for step in range(draws):
        picked = function.pick(candidates, n_b, np.random.default_rng((0, step)))
        assert picked.weights is not None
        estimates.append((torch.from_numpy(picked.weights)[:, None] * each[picked.rows]).mean(0))
        unweighted.append(each[picked.rows].mean(0))
    true, found = each.mean(0), torch.stack(estimates)
    errors = found.std(0) / math.sqrt(draws)
    assert ((found.mean(0) - true).abs() < 5 * errors + 1e-6).all()
    assert ((torch.stack(unweighted).mean(0) - true).abs() > 10 * errors).any()
    draw = np.random.default_rng(1)
    uniform = torch.stack([each[draw.choice(POINTS, n_b)].mean(0) for _ in range(draws)])
    assert found.var(0).sum() < uniform.var(0).sum(), "that is what it is for"


def test_importance_sampling_of_points_without_gradients_is_uniform() -> None:
    candidates = Shortlist(np.arange(8, dtype=np.int64), np.zeros(8))
    picked = get_function("gradient_norm_is").pick(candidates, 4, np.random.default_rng(0))
    assert picked.weights is not None
    assert picked.weights.tolist() == [1.0] * 4


# Stochastic passes


def test_passes_are_plain_dropout_seeded_by_the_points_alone() -> None:
    network, points = dropped(), batch(8)
    got = output(network, Needs(passes=3), points)
    plain = dropped().eval()
    np.testing.assert_array_equal(got.logits, plain(points.inputs).detach())
    for module in plain.modules():
        module.train(isinstance(module, nn.Dropout))
    assert got.passes is not None
    for number, logits in enumerate(got.passes):
        torch.rand(number)  # the past does not matter
        seed_points(7, points.indices, number, CPU)
        assert torch.equal(logits, plain(points.inputs))
    assert len({logits.sum().item() for logits in got.passes}) == 3


def test_passes_repeat_in_any_replica_and_differ_between_chunks() -> None:
    points, needs = batch(8), Needs(passes=2)
    replica = Replica(dropped(), Numerics("fp32"), CPU, TASK, needs=needs, seed=7)
    state = {name: t.clone() for name, t in dropped().state_dict().items()}
    first, again = replica(points), replica(points)
    elsewhere = output(dropped(), needs, points)
    assert first.passes is not None and again.passes is not None
    assert elsewhere.passes is not None
    assert torch.equal(first.passes, again.passes)
    assert torch.equal(first.passes, elsewhere.passes)
    replica.load(iter(state.items()))
    masks = []
    for indices in (points.indices, points.indices + 8, points.indices[::-1].copy()):
        passes = replica(Batch(indices, (points.inputs, points.labels))).passes
        assert passes is not None
        masks.append(passes)
    assert torch.equal(masks[0], first.passes)
    assert not torch.equal(masks[1], first.passes)
    assert not torch.equal(masks[2], first.passes)


@pytest.mark.parametrize(
    "name", ["predictive_entropy", "conditional_entropy", "bald", "loss_minus_conditional_entropy"]
)
def test_uncertainties_are_those_of_plain_loops(name: str) -> None:
    points, function = batch(6), get_function(name)
    assert function.needs.passes == 10
    forward = output(dropped(), function.needs, points)
    assert forward.passes is not None
    p = forward.passes.double().softmax(2).numpy()
    expected = []
    for c, y in enumerate(points.labels.tolist()):
        mean = [float(np.mean(p[:, c, k])) for k in range(CLASSES)]
        predictive = -sum(q * math.log(q) for q in mean)
        inner = [-sum(q * math.log(q) for q in p[s, c]) for s in range(10)]
        conditional = sum(inner) / 10
        expected.append(
            {
                "predictive_entropy": predictive,
                "conditional_entropy": conditional,
                "bald": predictive - conditional,
                "loss_minus_conditional_entropy": -math.log(mean[y]) - conditional,
            }[name]
        )
    scores = Scoring(function, None)(points.indices, forward, {})[0]
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-6)


# DivBS


def plain_divbs(each: Tensor, n_b: int) -> list[int]:
    """Greedy orthogonalised representativeness on the gradients [N, D] themselves."""
    total, basis, rows = each.sum(0), torch.empty(0, each.shape[1], dtype=each.dtype), []
    for _ in range(n_b):
        left = each - each @ basis.T @ basis
        left = left / left.norm(dim=1, keepdim=True)
        gains = (left @ total).abs()
        gains[rows] = -1
        rows.append(int(gains.argmax()))
        basis = torch.cat([basis, left[rows[-1]][None]])
    return rows


def test_divbs_picks_what_gram_schmidt_on_whole_gradients_picks() -> None:
    function, network, points = get_function("divbs"), model(), batch()
    candidates = shortlist(function, network, points)
    picked = function.pick(candidates, 12, np.random.default_rng(0))
    assert picked.rows.tolist() == plain_divbs(gradients(network, points), 12)
    assert picked.weights is None


def test_divbs_takes_copies_only_when_nothing_else_is_left() -> None:
    """Ten times the same five points: each once, then each again, for ever."""
    five = batch(5)
    rows = np.tile(np.arange(5), 10)
    points = Batch(np.arange(50, dtype=np.int64), (five.inputs[rows], five.labels[rows]))
    function = get_function("divbs")
    picked = function.pick(shortlist(function, model(), points), 20, np.random.default_rng(0)).rows
    assert len(set(picked.tolist())) == 20
    for start in range(0, 20, 5):
        assert sorted(rows[picked[start : start + 5]]) == [0, 1, 2, 3, 4]


def test_divbs_of_points_without_gradients_is_still_a_batch() -> None:
    parts = np.zeros((6, 1 + 2 + 3), np.float32)
    parts[:, 0] = 2
    candidates = Shortlist(np.arange(6, dtype=np.int64), np.zeros(6), parts)
    picked = get_function("divbs").pick(candidates, 4, np.random.default_rng(0))
    assert len(set(picked.rows.tolist())) == 4


# A quota


@pytest.mark.parametrize(
    ("labels", "n_b", "picked"),
    [
        ([0, 0, 0, 0, 0, 1, 2, 3], 4, [0, 1, 5, 6]),  # two of a class at most
        ([0, 0, 0, 0, 0, 0, 0, 1], 4, [0, 1, 7, 2]),  # unless there are no others
        ([3, 3, 2, 1, 0, 0, 0, 0], 1, [0]),  # and one always
    ],
)
def test_a_quota_leaves_half_of_the_batch_to_others(
    labels: list[int], n_b: int, picked: list[int]
) -> None:
    rows = np.array([[label, 4] for label in labels], np.float32)
    candidates = Shortlist(np.arange(8, dtype=np.int64), np.arange(8.0, 0.0, -1.0), rows)
    found = get_function("reducible_loss_quota").pick(candidates, n_b, np.random.default_rng(0))
    assert (found.rows.tolist(), found.weights) == (picked, None)


# REDUCR


def test_class_weights_grow_by_the_multiplicative_rule() -> None:
    function = get_function("reducr")
    before = function.initial_state(3)
    labels, losses = torch.tensor([0, 0, 2]), torch.tensor([1.0, 3.0, 4.0])
    after = function.next_state(before, labels, losses)["class_weights"]
    raw = [math.exp(0.1 * loss) for loss in (2.0, 8 / 3, 4.0)]  # class 1: the batch's mean
    np.testing.assert_allclose(after, [value / sum(raw) for value in raw], rtol=1e-5)
    assert before["class_weights"].tolist() == pytest.approx([1 / 3] * 3)


# SVP


@pytest.fixture(scope="module")
def svp_table(dataset_dir: Path) -> Path:
    path = dataset_dir.with_name("svp.safetensors")
    proxy = ("--model", "rhoselect.models:mlp", "--set", "model.args.width=16")
    made("svp", "fit", "--data", dataset_dir, "--out", path, *proxy, "--epochs", "2")
    return path


def test_the_core_set_has_the_points_that_a_plainly_trained_proxy_is_least_sure_of(
    tiny_config: Path, svp_table: Path
) -> None:
    inputs = open_inputs(load(tiny_config))
    train, dataset = inputs.train, inputs.dataset
    shape, classes = dataset.input_shape, dataset.classes
    proxy = build_model("rhoselect.models:mlp", {"width": 16}, shape, classes, 0)
    optimizer = torch.optim.AdamW(proxy.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
    plan = type(inputs.plan)(0, len(train), 64, 64)
    with threads(1):
        for step in range(2 * (len(train) // 64)):
            points = train.read(train.index_of(plan.indices(plan.window(step))), CPU)
            optimizer.zero_grad()
            F.cross_entropy(proxy(points.inputs), points.labels).backward()
            optimizer.step()
        p = proxy(train.read(train.indices, CPU).inputs).softmax(1)
    entropies = -(p * p.log()).sum(1).detach().numpy()
    core = read_core_set(svp_table, dataset.fingerprint, dataset.splits["train"], 0.25)
    assert core.members.sum() == len(train) // 4
    assert entropies[core.members].min() > entropies[~core.members].max() - 1e-5
    with pytest.raises(ConfigError, match=r"svp\.table .*made for data set .*, allowed"):
        read_core_set(svp_table, "another", dataset.splits["train"], 0.25)
    with pytest.raises(ConfigError, match=r"svp\.table .*one for each of the train split's"):
        read_core_set(svp_table, dataset.fingerprint, (0, 17), 0.25)


def test_a_core_set_of_another_format(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_bytes(b"not one")
    with pytest.raises(ConfigError, match=r"svp\.table .*not a file of 'rhoctl svp fit --out'"):
        read_core_set(path, "f", (0, 1), 0.5)


# Real runs


def train(config: Path, run: Path, sets: list[str], workers: int) -> dict:
    flags = [word for item in sets for word in ("--set", item)]
    made("train", config, "--run-dir", run, "--workers", workers, *flags)
    return json.loads((run / "summary.json").read_text())


def settings(name: str, svp_table: Path) -> list[str]:
    """A run of this method, with a model that suits all of them."""
    return [
        f"selection.function={name}",
        "model.factory=user_code:Dropped",
        "model.args={}",
        "scorer.precision=fp32",
        "trainer.steps=6",
        f"svp.table={svp_table}",
    ]


def chosen(run: Path) -> npt.NDArray[np.int64]:
    return np.array(pq.read_table(run / "steps.parquet")["indices"].to_pylist())


@pytest.mark.parametrize("name", sorted(BUILT_IN.keys() - {"infobatch"}))  # it has no windows
def test_all_methods_choose_from_the_same_windows(
    tiny_config: Path, svp_table: Path, il_weights: Path, tmp_path: Path, name: str
) -> None:
    sets = [*settings(name, svp_table), f"il.weights={il_weights}"]
    summary = train(tiny_config, tmp_path / name, sets, workers=0)
    inputs = open_inputs(load(tiny_config))
    plan, train_split = inputs.plan, inputs.train
    windows = [train_split.index_of(plan.indices(plan.window(step))) for step in range(6)]
    for picks, window in zip(chosen(tmp_path / name), windows, strict=True):
        assert np.isin(picks, window).all()
    if name == "svp":
        splits = inputs.dataset.splits
        core = read_core_set(svp_table, inputs.dataset.fingerprint, splits["train"], 0.5)
        for picks, window in zip(chosen(tmp_path / name), windows, strict=True):
            assert picks.tolist() == window[core.at(window)][:8].tolist()
        assert summary["proxy_seconds"] > 0 and summary["flops"]["proxy"] > 0
    else:
        assert summary["flops"]["proxy"] == 0


def test_scores_cost_a_forward_a_pass(tiny_config: Path, svp_table: Path, tmp_path: Path) -> None:
    costs = [
        train(tiny_config, tmp_path / name, settings(name, svp_table), 0)["flops"]["score"]
        for name in ("loss", "bald")
    ]
    assert costs[1] == 11 * costs[0] > 0


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("divbs", []),
        pytest.param(
            "bald",
            ["selection.lag=1", "selection.rescore=scorers", "selection.bn=batch"],
            marks=pytest.mark.matrix,
        ),
        pytest.param("loss_minus_conditional_entropy", [], marks=pytest.mark.matrix),
        pytest.param("reducr", [], marks=pytest.mark.matrix),
        pytest.param("reducible_loss_quota", [], marks=pytest.mark.matrix),
    ],
)
def test_two_workers_choose_what_none_choose(
    ray_session: None,
    tiny_config: Path,
    svp_table: Path,
    tmp_path: Path,
    name: str,
    more: list[str],
) -> None:
    """Those that send more than scores and weights, or draw random numbers, which threads share."""
    sets = settings(name, svp_table) + more
    alone, shared = (train(tiny_config, tmp_path / str(w), sets, w) for w in (0, 2))
    assert [shared[key] for key in HASHES] == [alone[key] for key in HASHES]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("gradient_norm", []),
        ("gradient_norm_is", ["selection.lag=1"]),
        ("reducr", []),
        ("svp", []),
    ],
)
def test_two_threads_choose_what_none_choose(
    tiny_config: Path, svp_table: Path, tmp_path: Path, name: str, more: list[str]
) -> None:
    sets = settings(name, svp_table) + more
    alone = train(tiny_config, tmp_path / "0", sets, workers=0)
    shared, _ = threaded.run(tiny_config, tmp_path / "2", 2, sets)
    assert [shared[key] for key in HASHES] == [alone[key] for key in HASHES]
