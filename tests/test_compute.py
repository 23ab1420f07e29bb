"""Settings of torch are those of a block or of a thread: the user's process keeps its own."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import threaded
from rhoselect.compute import repeatable, single_threaded_pool, tf32_switches, threads
from rhoselect.config.scoring import Tf32
from rhoselect.data.arrow import DatasetPoints
from rhoselect.errors import ConfigError
from rhoselect.models import mlp
from rhoselect.types import Batch
from support import made, rhoctl


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("before", [(False, False, True), (True, True, False), (True, False, True)])
def test_cuda_kernels_repeat_within_the_block_alone(
    monkeypatch: pytest.MonkeyPatch, before: tuple[bool, bool, bool], fails: bool
) -> None:
    """This touches no GPU. The user's own model may need a kernel that has no such form."""

    def now() -> tuple[bool, bool, bool]:
        enabled = torch.are_deterministic_algorithms_enabled()
        warns = torch.is_deterministic_algorithms_warn_only_enabled()
        return enabled, warns, torch.backends.cudnn.benchmark

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", before[2])
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    try:
        with suppress(ZeroDivisionError), repeatable(torch.device("cuda")):
            assert now() == (True, False, False)
            1 / (not fails)
        assert now() == before
        with repeatable(torch.device("cpu")):
            assert now() == before
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("use", ["convolutions", "none"])
@pytest.mark.parametrize("fails", [False, True])
def test_tf32_is_used_as_configured_within_the_block_alone(fails: bool, use: Tf32) -> None:
    """Whatever the user's own model uses: one setting scores in all processes."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in tf32_switches()]
    try:
        for owner, name, value in tf32_switches():
            setattr(owner, name, {"ieee": "tf32", "tf32": "ieee"}.get(value, not value))
        users = [getattr(owner, name) for owner, name, _ in before]
        with suppress(ZeroDivisionError), repeatable(torch.device("cuda"), use):
            now = [(getattr(owner, name), value) for owner, name, value in tf32_switches(use)]
            assert all(found == value for found, value in now)
            1 / (not fails)
        assert [getattr(owner, name) for owner, name, _ in before] == users
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def test_tf32_of_matrix_products_too_needs_a_gpu_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    for capability in ((7, 5), (8, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, it=capability: it)
        old = capability < (8, 0)
        refused = pytest.raises(ConfigError, match=r"compute\.tf32: got 'all' on Tesla T4, allowed")
        with refused if old else nullcontext(), repeatable(gpu, "all"):
            assert {getattr(owner, name) for owner, name, _ in tf32_switches()} <= {"tf32", True}


def test_a_number_of_threads_is_that_of_a_block_in_one_thread() -> None:
    torch.set_num_threads(3)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == 3
        with threads(2):
            assert torch.get_num_threads() == 2
            assert other.submit(torch.get_num_threads).result() == 3
        assert torch.get_num_threads() == 3


def test_a_pool_that_computes_alone_leaves_later_threads_as_they_would_be() -> None:
    torch.set_num_threads(3)
    with single_threaded_pool("alone") as alone:
        assert alone.submit(torch.get_num_threads).result() == 1
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 3
        assert alone.submit(torch.get_num_threads).result() == 1
    assert torch.get_num_threads() == 3


COUNTED: set[tuple[int, int]] = set()
"""How many points a forward had, and how many threads."""


class Counting(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        COUNTED.add((len(inputs), torch.get_num_threads()))
        output: Tensor = self.network(inputs)
        return output


def test_all_evaluations_of_a_run_are_read_by_one_thread(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each other one would leave free memory of its own behind: see `read_ahead`."""
    read, readers = DatasetPoints.read, list[threading.Thread]()

    def noted(points: DatasetPoints, *arguments: Any) -> Batch:
        if len(points.indices) == 100:  # of the test split
            readers.append(threading.current_thread())
        return read(points, *arguments)

    monkeypatch.setattr(DatasetPoints, "read", noted)
    sets = [word for key in ("eval_every=1", "steps=3") for word in ("--set", f"trainer.{key}")]
    made("train", tiny_config, "--run-dir", tmp_path / "run", *sets)
    ahead = [each for each in readers if each is not threading.current_thread()]
    assert len(ahead) == 3 and len(set(ahead)) == 1


def counting(*, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """A model factory."""
    return Counting(mlp(input_shape=input_shape, classes=classes, width=8))


@pytest.mark.parametrize(("scoring", "training"), [(2, 1), (1, 2)])
def test_each_forward_has_the_threads_that_are_configured(
    tiny_config: Path, tmp_path: Path, scoring: int, training: int
) -> None:
    """Of scorers, of a trainer that scores and re-scores, of its steps, of its evaluations."""
    two_stages = ["selection.lag=1", "selection.shortlist=2"]
    model = ["model.factory=test_compute:counting", "model.args={}", *two_stages]
    numbers = [f"scorer.threads={scoring}", f"trainer.threads={training}"]
    torch.set_num_threads(training)  # for what counts the FLOPs of a step
    for workers in (0, 2):
        COUNTED.clear()
        threaded.run(tiny_config, tmp_path / f"{workers}", workers, [*model, *numbers])
        assert COUNTED - {(2, 1), (2, 2)} == {(8, training), (16, scoring), (100, training)}


class Hungry(nn.Module):
    """A network whose GPU is full from forward ``fits`` of a chunk on. torch raises this error."""

    def __init__(self, network: nn.Module, fits: int) -> None:
        super().__init__()
        self.network, self.fits = network, fits

    def forward(self, inputs: Tensor) -> Tensor:
        self.fits -= len(inputs) == 16
        if self.fits < 0:
            raise torch.OutOfMemoryError(f"CUDA out of memory. GPU 0 has\nless free. {'x' * 999}")
        output: Tensor = self.network(inputs)
        return output


def hungry(*, input_shape: tuple[int, ...], classes: int, fits: int) -> nn.Module:
    """A model factory."""
    return Hungry(mlp(input_shape=input_shape, classes=classes, width=8), fits)


@pytest.mark.parametrize(
    ("fits", "lag", "who"),
    [(0, 0, "the forward at start"), (9, 0, "scoring in slot 0"), (5, 1, "scoring in the trainer")],
)
def test_a_gpu_without_room_is_one_line(
    tiny_config: Path, tmp_path: Path, fits: int, lag: int, who: str
) -> None:
    model = f"model={{factory='test_compute:hungry', args={{fits={fits}}}}}"
    sets = ("--set", model, "--set", f"selection.lag={lag}")
    result = rhoctl("train", tiny_config, "--run-dir", tmp_path / "run", *sets)
    assert (result.code, result.err.count("\n")) == (1, 1), result.err
    assert f"{who}" in result.err and "GPU 0 has less free" in result.err
    assert "scorer.prefetch" in result.err and len(result.err) < 600
