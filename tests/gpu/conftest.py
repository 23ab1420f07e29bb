"""Tests of what a CUDA device does, in a session of their own: ``make test-gpu``.

RHOSELECT_GPU_TESTS names the device. Without it they are skipped, as the rest of the suite does not
see any GPU. With "cpu" those that can run there do, which keeps them from rotting. They need
nothing of the other tests but oracle.py, as they also run on machines without a checkout.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gpu_helpers import DEVICE, Train, fit, made

from rhoselect.importers import write_dataset

HERE = Path(__file__).parent
CLASSES = 4
CONFIG = """
seed = 0
data.path = "DATA"
model = { factory = "rhoselect.models:mlp", args = { width = 32 } }
il.table = "TABLE"
selection = { n_b = 8, n_B = 64, chunk = 16 }
scorer = { precision = "bf16", device = "DEVICE" }
trainer = { steps = 20, checkpoint_every = 10, eval_every = 10, lr = 3e-3, device = "DEVICE" }
metrics.port = -1
"""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a device one test is skipped for all of them: a line of the report is enough."""
    own = [item for item in items if item.path.is_relative_to(HERE)]
    if own and not (DEVICE == "cpu" or (DEVICE == "cuda" and torch.cuda.is_available())):
        reason = f"{len(own)} tests need a CUDA device and RHOSELECT_GPU_TESTS=cuda: make test-gpu"
        own[0].add_marker(pytest.mark.skip(reason=reason))
        config.hook.pytest_deselected(items=own[1:])
        items[:] = [item for item in items if item not in own[1:]]


@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    """The device under test."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device(DEVICE)


@pytest.fixture(autouse=True)
def same_start(device: torch.device) -> Iterator[None]:
    """The same random numbers for each test, which leaves torch's settings as they were."""
    torch.default_generator.manual_seed(0)
    torch.set_num_threads(1)
    yield
    assert not torch.are_deterministic_algorithms_enabled(), "the test left this on"


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """The device of tests that a CPU cannot stand in for."""
    if device.type != "cuda":
        pytest.skip("nothing that a CPU has")
    return device


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set of images [1, 16, 16] whose brighter quarter tells the class, and its losses."""
    folder = tmp_path_factory.mktemp("ground")
    random, splits = np.random.default_rng(0), {}
    for name, size in {"train": 400, "holdout": 200, "test": 100}.items():
        labels = random.integers(0, CLASSES, size)
        images = random.integers(0, 120, (size, 1, 16, 16), np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = 8 * (label // 2), 8 * (label % 2)
            image[0, row : row + 8, column : column + 8] += np.uint8(60)
        splits[name] = (images, labels)
    data, table = folder / "data", folder / "il.parquet"
    write_dataset(data, "image", splits, CLASSES, label_noise=0.1)
    fit(data, table)
    return data, table


@pytest.fixture
def config(ground: tuple[Path, Path], tmp_path: Path) -> Path:
    """A configuration of 20 steps on the device."""
    data, table = ground
    path = tmp_path / "run.toml"
    text = CONFIG.replace("DATA", str(data)).replace("TABLE", str(table))
    path.write_text(text.replace("DEVICE", DEVICE))
    return path


@pytest.fixture
def train(config: Path, tmp_path: Path) -> Train:
    """``rhoctl train`` with this number of workers and keys; returns the summary."""

    def run(name: str, workers: int, *sets: str) -> dict[str, object]:
        folder = tmp_path / name
        made("train", config, "--workers", workers, "--run-dir", folder, sets=sets)
        found: dict[str, object] = json.loads((folder / "summary.json").read_text())
        return found

    return run
