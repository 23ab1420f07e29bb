"""`trainer.micro_batches`: gradients of rows j::m, summed in one tree, as in a plain loop."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhoselect.compute import threads
from rhoselect.config import TrainerConfig
from rhoselect.tasks import Classification
from rhoselect.trainer.learner import Learner
from rhoselect.trainer.micro import TreeSum
from rhoselect.types import Batch

CPU = torch.device("cpu")
LR, STEPS = 0.05, 6


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def network(*layers: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 33), *layers, nn.ReLU(), nn.Linear(33, 5))


def batch(seed: int, points: int) -> Batch:
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(points, 8, generator=random)
    labels = torch.randint(5, (points,), generator=random)
    return Batch(np.arange(points, dtype=np.int64), (inputs, labels))


def learner(model: nn.Module, parts: int, **keys: float) -> Learner:
    return Learner(
        model, TrainerConfig(lr=LR, micro_batches=parts, **keys), 0, CPU, Classification()
    )


def gradients_of(
    model: nn.Module, points: Batch, weights: Tensor, parts: int
) -> list[list[Tensor]]:
    """Those of each part of the mean over all points."""
    found = []
    for part in range(parts):
        rows = list(range(part, len(points.labels), parts))
        losses = F.cross_entropy(model(points.inputs[rows]), points.labels[rows], reduction="none")
        loss = (losses * weights[rows]).sum() / len(points.labels)
        found.append(list(torch.autograd.grad(loss, list(model.parameters()))))
    return found


def plus(one: list[Tensor], other: list[Tensor]) -> list[Tensor]:
    return [a + b for a, b in zip(one, other, strict=True)]


def tree(g: list[list[Tensor]]) -> list[Tensor]:
    if len(g) == 1:
        return g[0]
    if len(g) == 2:
        return plus(g[0], g[1])
    if len(g) == 4:
        return plus(plus(g[0], g[1]), plus(g[2], g[3]))
    return plus(tree(g[:4]), tree(g[4:]))


def sequence(g: list[list[Tensor]]) -> list[Tensor]:
    total = g[0]
    for each in g[1:]:
        total = plus(total, each)
    return total


@pytest.mark.parametrize("points", [16, 11])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_steps_equal_those_of_a_plain_loop(parts: int, weighted: bool, points: int) -> None:
    """Also if the parts are not of one size: the divisor is n_b, not the mean of their means."""
    ours, plain = learner(network(), parts, clip_norm=0.3), network()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=LR, weight_decay=0.01, fused=True)
    weights = torch.linspace(0, 3, points)
    orders_differ = False
    for step in range(STEPS):
        data = batch(step, points)
        parted = gradients_of(plain, data, weights if weighted else torch.ones(points), parts)
        total = tree(parted)
        pairs = zip(total, sequence(parted), strict=True)
        orders_differ |= not all(torch.equal(one, other) for one, other in pairs)
        losses = F.cross_entropy(plain(data.inputs), data.labels, reduction="none").detach()
        for parameter, gradient in zip(plain.parameters(), total, strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(plain.parameters(), 0.3)
        optimizer.step()
        result = ours.update(data, weights if weighted else None, step)
        torch.testing.assert_close(result.losses, losses)
        assert result.loss == pytest.approx(
            float((losses * weights).mean() if weighted else losses.mean())
        )
        assert result.correct.shape == (points,)
        others = plain.state_dict()
        for name, tensor in ours.model.state_dict().items():
            assert torch.equal(tensor, others[name]), name
    assert orders_differ == (parts > 2), "another order of additions has other bits"


def test_each_part_has_random_numbers_of_its_own() -> None:
    points = batch(0, 1)
    alike = Batch(np.zeros(8, np.int64), (points.inputs.repeat(8, 1), points.labels.repeat(8)))
    model = network(nn.Dropout(0.5))
    whole, parted = (learner(model, parts).update(alike, None, 3) for parts in (1, 4))
    assert len(set(parted.losses[:4].tolist())) == 4
    again = learner(network(nn.Dropout(0.5)), 4)
    torch.rand(7)
    assert torch.equal(
        whole.losses[:2], learner(network(nn.Dropout(0.5)), 1).update(alike, None, 3).losses[:2]
    )
    assert not torch.equal(again.update(alike, None, 4).losses, parted.losses)


def test_a_parameter_that_takes_no_part_has_no_gradient() -> None:
    one, total = torch.tensor([1.0]), TreeSum()
    for each in (
        [one.clone(), None],
        [None, None],
        [one.clone(), one.clone()],
        [one.clone(), None],
    ):
        total.add(each)
    assert list(total.total) == [torch.tensor([3.0]), one]


def test_parts_take_less_memory_for_activations() -> None:
    """What autograd saves for the backward of a part, not of the batch."""
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(len(tensor) if tensor.ndim else 1)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        learner(network(), 4).update(batch(0, 1024), None, 0)
    assert max(sizes) == 256
