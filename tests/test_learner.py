"""One step of the learner is a plain PyTorch step, and a pure function of (weights, seed, step)."""

from __future__ import annotations

import math
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
from rhoselect.types import Batch

TASK = Classification()

CPU = torch.device("cpu")
LR, CLIP, DECAY, WARMUP, STEPS = 0.05, 0.3, 0.1, 3, 8
CONFIG = TrainerConfig(
    lr=LR,
    weight_decay=DECAY,
    clip_norm=CLIP,
    schedule="cosine",
    warmup_steps=WARMUP,
    steps=STEPS,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def network(dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(4 * 36, 5),
        )


def batch(seed: int) -> Batch:
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(12, 1, 8, 8, generator=random)
    labels = torch.randint(5, (12,), generator=random)
    return Batch(np.arange(12, dtype=np.int64), (inputs, labels))


def assert_same(one: nn.Module, other: nn.Module) -> None:
    others = other.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, others[name]), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("weighted", [False, True])
def test_updates_equal_plain_torch_bit_for_bit(precision: str, weighted: bool) -> None:
    """Fused AdamW, clipping, warm-up, cosine; loss weights multiply the losses of their points."""
    config = CONFIG.model_copy(update={"precision": precision})
    learner, plain = Learner(network(), config, 0, CPU, TASK), network().train()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=LR, weight_decay=DECAY, fused=True)
    clipped = 0
    for step in range(STEPS):
        points = batch(step)
        weights = torch.linspace(0, 3, 12) if weighted else None

        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = plain(points.inputs)
        losses = F.cross_entropy(logits.float(), points.labels, reduction="none")
        loss = losses.mean() if weights is None else (weights * losses).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        clipped += int(nn.utils.clip_grad_norm_(plain.parameters(), CLIP) > CLIP)
        progress = (step - WARMUP) / (STEPS - WARMUP)
        cosine = LR * 0.5 * (1 + math.cos(math.pi * progress))
        optimizer.param_groups[0]["lr"] = LR * (step + 1) / WARMUP if step < WARMUP else cosine
        optimizer.step()

        result = learner.update(points, weights, step)
        assert torch.equal(result.losses, losses.detach())
        assert torch.equal(result.correct, logits.argmax(1) == points.labels)
        assert result.loss == loss.item()
        assert_same(learner.model, plain)
    assert clipped > 0


def test_no_clipping_unless_asked() -> None:
    free = Learner(network(), TrainerConfig(lr=LR, clip_norm=0.0), 0, CPU, TASK)
    loose = Learner(network(), TrainerConfig(lr=LR, clip_norm=1e9), 0, CPU, TASK)
    tight = Learner(network(), TrainerConfig(lr=LR, clip_norm=1e-6), 0, CPU, TASK)
    for learner in (free, loose, tight):
        learner.update(batch(0), None, 0)
    assert_same(free.model, loose.model)
    assert not torch.equal(free.model.state_dict()["5.bias"], tight.model.state_dict()["5.bias"])


def test_a_point_of_weight_zero_does_not_train() -> None:
    points = batch(0)
    weights = torch.ones(12)
    weights[3:] = 0
    changed = Batch(points.indices, (points.inputs, (points.labels + (weights == 0)) % 5))
    results = []
    for labels in (points, changed):
        learner = Learner(network(), TrainerConfig(lr=LR), 0, CPU, TASK)
        learner.update(labels, weights, 0)
        results.append(learner.model)
    assert_same(*results)


def test_a_step_depends_on_seed_and_step_and_not_on_past_random_numbers() -> None:
    def after(seed: int, step: int, past: int) -> dict[str, Tensor]:
        learner = Learner(network(dropout=0.5), TrainerConfig(lr=LR), seed, CPU, TASK)
        torch.manual_seed(past)
        torch.rand(past)
        learner.update(batch(0), None, step)
        return learner.model.state_dict()

    first = after(seed=1, step=4, past=10)
    again = after(seed=1, step=4, past=37)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for seed, step in ((1, 5), (2, 4)):
        assert not torch.equal(first["5.weight"], after(seed, step, past=10)["5.weight"])


def test_a_restored_learner_takes_the_same_next_step() -> None:
    """Parameters, BatchNorm statistics and Adam's moments all survive; so does the step count."""
    original = Learner(network(dropout=0.5), CONFIG, 0, CPU, TASK)
    for step in range(4):
        original.update(batch(step), None, step)
    stored = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    restored = Learner(network(dropout=0.5), CONFIG, 0, CPU, TASK)
    restored.update(batch(77), None, 0)
    restored.load_state_dict(stored)
    assert_same(restored.model, original.model)
    for step in range(4, 6):
        original.update(batch(step), None, step)
        restored.update(batch(step), None, step)
        assert_same(restored.model, original.model)


def test_pieces_are_the_named_tensors_as_they_are_now() -> None:
    learner = Learner(network(), TrainerConfig(lr=LR), 0, CPU, TASK)
    learner.update(batch(0), None, 0)
    pieces = dict(learner.pieces(["0.weight", "1.running_mean"]))
    now = learner.model.state_dict()
    assert list(pieces) == ["0.weight", "1.running_mean"]
    for name, tensor in pieces.items():
        assert torch.equal(tensor, now[name])


@pytest.mark.parametrize("wrong", [math.nan, -math.inf])
@pytest.mark.parametrize("place", [0, -1])
def test_a_weight_that_is_not_finite_is_found(wrong: float, place: int) -> None:
    learner = Learner(network(), CONFIG, 0, CPU, TASK)
    assert 0 < learner.greatest_weight() < math.inf
    with torch.no_grad():
        [*learner.model.parameters()][place].view(-1)[-1] = wrong
    assert not math.isfinite(learner.greatest_weight())
