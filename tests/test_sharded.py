"""``trainer.parallel = "fsdp"``: a model in parts on several ranks learns what a whole one learns."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import oracle
from rhoselect.compute import seed_step, threads
from rhoselect.config import load
from rhoselect.inputs import open_inputs
from rhoselect.trainer.records import read_selected, selected_sha256, weights_sha256
from support import hashes, made, rhoctl

pytestmark = pytest.mark.timeout(240)  # interpreters start, beside other tests
STEPS, PARTS, LR = 6, 4, 0.01
KEYS = ["model.factory=user_code:Stacked", "model.args={}", "trainer.parallel=fsdp"]
KEYS += [f"trainer.steps={STEPS}", f"trainer.micro_batches={PARTS}", f"trainer.lr={LR}"]
KEYS += ["trainer.eval_every=3", "trainer.checkpoint_every=3", "trainer.clip_norm=0"]


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


def words(*keys: str) -> list[str]:
    return [word for key in keys for word in ("--set", key)]


def train(config: Path, run: Path, devices: int, *more: str) -> Path:
    made("train", config, "--run-dir", run, *words(*KEYS, f"trainer.devices={devices}", *more))
    return run


def test_x(tiny_config: Path, tmp_path: Path) -> None:
    a = train(tiny_config, tmp_path / "1", 1)
    c = train(tiny_config, tmp_path / "r", 2, "trainer.parallel=replicated")
    b = train(tiny_config, tmp_path / "2", 2)
    for x in (a, b, c):
        print(hashes(x), {k: v.double().sum().item() for k, v in load_file(x / "model.safetensors").items()})
        print(sorted(x.glob("checkpoints/*/*")))
