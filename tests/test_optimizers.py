"""Optimizers and groups: the steps of plain torch loops, and resumes that change nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import nn

from rhoselect.compute import threads
from rhoselect.config import TrainerConfig
from rhoselect.errors import ConfigError
from rhoselect.models.weights import separate
from rhoselect.tasks import Classification
from rhoselect.trainer.learner import Learner
from rhoselect.trainer.packing import pack, unpack
from rhoselect.types import Batch

CPU = torch.device("cpu")
LR, STEPS = 0.02, 10
MATRICES = {"pattern": "*", "dims": [2], "optimizer": {"name": "Muon"}, "lr_factor": 3.0}
CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "adamw": {"optimizer": {"args": {"betas": [0.8, 0.9], "fused": False}}, "weight_decay": 0.2},
    "sgd": {"optimizer": {"name": "SGD"}},
    "nesterov": {
        "optimizer": {"name": "torch.optim:SGD", "args": {"momentum": 0.9, "nesterov": True}},
        "weight_decay": 0.1,
    },
    "adafactor": {"optimizer": {"name": "Adafactor", "args": {"d": 2.0}}, "weight_decay": 0.1},
    "rprop": {"optimizer": {"name": "Rprop"}},
    "nadam": {"optimizer": {"name": "NAdam"}},
    "muon": {"groups": [MATRICES]},
    "groups": {
        "groups": [
            {"pattern": "*.bias", "weight_decay": 0.0},
            {"pattern": "3.*", "lr_factor": 10.0},
        ],
        "weight_decay": 0.3,
    },
    "own": {"optimizer": {"name": "user_code:Counting", "args": {"every": 3}}},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 5)
    return nn.Sequential(*layers)


def batch(seed: int) -> Batch:
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(12, 8, generator=random)
    labels = torch.randint(5, (12,), generator=random)
    return Batch(np.arange(12, dtype=np.int64), (inputs, labels))


def learner(keys: dict[str, Any]) -> Learner:
    settings = {"lr": LR, "schedule": "linear", "warmup_steps": 2, "steps": STEPS, **keys}
    return Learner(network(), TrainerConfig(**settings), 0, CPU, Classification())


def plain_optimizers(name: str, model: nn.Sequential) -> list[torch.optim.Optimizer]:
    """What a user of torch writes."""
    optim, every = torch.optim, list(model.parameters())
    if name == "muon":
        matrices = [p for p in every if p.ndim == 2]
        rest = [p for p in every if p.ndim != 2]
        return [
            optim.Muon(matrices, lr=3 * LR, weight_decay=0.01),
            optim.AdamW(rest, lr=LR, weight_decay=0.01, fused=True),
        ]
    if name == "groups":
        parts = [
            {"params": [model[0].weight, model[1].weight]},
            {"params": [model[0].bias, model[1].bias, model[3].bias], "weight_decay": 0.0},
            {"params": [model[3].weight], "lr": 10 * LR},
        ]
        return [optim.AdamW(parts, lr=LR, weight_decay=0.3, fused=True)]
    alone: dict[str, torch.optim.Optimizer] = {
        "default": optim.AdamW(every, lr=LR, weight_decay=0.01, fused=True),
        "adamw": optim.AdamW(every, lr=LR, betas=(0.8, 0.9), weight_decay=0.2),
        "sgd": optim.SGD(every, lr=LR),
        "nesterov": optim.SGD(every, LR, momentum=0.9, nesterov=True, weight_decay=0.1),
        "adafactor": optim.Adafactor(every, lr=LR, d=2.0, weight_decay=0.1),
        "rprop": optim.Rprop(every, lr=LR),
        "nadam": optim.NAdam(every, lr=LR),
    }
    return [alone[name]]


def assert_same(one: nn.Module, other: nn.Module) -> None:
    others = other.state_dict()
    wrong = [name for name, t in one.state_dict().items() if not torch.equal(t, others[name])]
    assert wrong == []


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "own"])
def test_ten_steps_equal_those_of_a_plain_loop(name: str) -> None:
    ours, plain = learner(CONFIGS[name]), network()
    optimizers = plain_optimizers(name, plain)
    first = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    for step in range(STEPS):
        points = batch(step)
        plain.zero_grad()
        F.cross_entropy(plain(points.inputs), points.labels).backward()
        share = (step + 1) / 2 if step < 2 else 1 - (step - 2) / (STEPS - 2)
        for optimizer, rates in zip(optimizers, first, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = LR * share * (rate / LR)
            optimizer.step()
        ours.update(points, None, step)
        assert_same(ours.model, plain)
    assert not torch.equal(plain[0].weight, network()[0].weight)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_resume_takes_the_same_steps(name: str) -> None:
    """From bytes, as in a checkpoint."""
    whole = learner(CONFIGS[name])
    for step in range(4):
        whole.update(batch(step), None, step)
    stored = save(separate(whole.state_dict()))
    again = learner(CONFIGS[name])
    again.load_state_dict(load(stored))
    for step in range(4, 8):
        whole.update(batch(step), None, step)
        again.update(batch(step), None, step)
        assert_same(again.model, whole.model)
    assert save(separate(again.state_dict())) == save(separate(whole.state_dict()))


def test_an_optimizer_of_one_s_own_has_its_numbers_back() -> None:
    """The learning rate of ``Counting`` is 0 but for every third step that it has counted."""
    ours = learner(CONFIGS["own"])
    moved = []
    for step in range(7):
        before = ours.model.state_dict()["0.weight"].clone()
        ours.update(batch(step), None, step)
        moved.append(not torch.equal(before, ours.model.state_dict()["0.weight"]))
        stored = load(save(separate(ours.state_dict())))
        ours = learner(CONFIGS["own"])
        ours.load_state_dict(stored)
    assert moved == [False, False, True, False, False, True, False]


def test_any_tree_of_tensors_and_numbers_comes_back() -> None:
    shared = torch.arange(3)
    tree = {
        0: {"a.b": shared, "a": {"b": torch.tensor(1.5)}, "n": 2**70, "x": 0.1 + 0.2},
        "rest": [(1, 2.0, True, None, "text"), [], {}, float("inf"), shared[1:]],
    }
    found = unpack(load(save(separate(pack(tree)))))
    assert repr(found) == repr(tree)
    with pytest.raises(TypeError, match=re.escape("state.0: a Generator")):
        pack({"state": {0: torch.Generator()}})


def test_a_parameter_belongs_to_the_first_group_that_matches() -> None:
    still = {"pattern": "*", "lr_factor": 0.0}
    ours = learner({"groups": [{"pattern": "[13].weight"}, still]})
    before = {name: t.clone() for name, t in ours.model.state_dict().items()}
    ours.update(batch(0), None, 0)
    after = ours.model.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["1.weight", "3.weight"]


def test_a_pattern_that_matches_nothing_names_what_there_is() -> None:
    with pytest.raises(
        ConfigError, match=r"groups\.0\.pattern: got 'head\*', .*0\.weight, 0\.bias"
    ):
        learner({"groups": [{"pattern": "head*"}]})
    twice = [{"pattern": "*.bias"}, {"pattern": "0.bias"}]
    with pytest.raises(ConfigError, match=r"groups\.1\.pattern: .*that earlier groups left"):
        learner({"groups": twice})


def weight_decay(**keys: Any) -> float:
    return TrainerConfig(**keys).weight_decay


def test_only_adamw_decays_unless_asked() -> None:
    sgd = {"name": "SGD"}
    assert weight_decay() == weight_decay(optimizer={"name": "torch.optim:AdamW"}) == 0.01
    assert weight_decay(optimizer=sgd) == 0
    assert weight_decay(optimizer=sgd, weight_decay=0.5) == 0.5
