"""Small models are fitted on the device that is asked for, and their points are read ahead.

What a fit on a GPU gives is checked in tests/gpu."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from rhoselect.client import fit_irreducible_losses
from rhoselect.data import Labels, SplitPoints
from rhoselect.trainer.fit import FitOptions, fit_holdout, irreducible_config
from rhoselect.trainer.fit.training import read_ahead
from rhoselect.types import Batch, Indices
from support import made, rhoctl

CPU = torch.device("cpu")
MLP = ("--model", "rhoselect.models:mlp", "--set", "model.args.width=8", "--epochs", "1")


def gpus(patch: pytest.MonkeyPatch, count: int) -> None:
    """Let this process believe that it sees some."""
    patch.setattr(torch.cuda, "is_available", lambda: count > 0)
    patch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize("command", ["il", "svp"])
def test_a_fit_is_on_the_device_that_is_asked_for(
    dataset_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    fit = (command, "fit", "--data", dataset_dir, *MLP)
    gpus(monkeypatch, 1)
    made(*fit, "--out", tmp_path / "cpu", "--device", "cpu")
    for device, words in (
        ("cuda:1", r"trainer.device: got 'cuda:1', but this process sees 1 CUDA devices"),
        ("gpu", "trainer.device: got 'gpu', allowed auto, cpu, cuda or cuda:N"),
    ):
        refused = rhoctl(*fit, "--out", tmp_path / "none", "--device", device)
        assert refused.code == 2
        assert words in refused.err
    assert not (tmp_path / "none").exists()


def test_bits_of_a_table_on_a_cpu_do_not_move(dataset_dir: Path, tmp_path: Path) -> None:
    """Nor does the size of a scored batch move points."""
    fit = ("il", "fit", "--data", dataset_dir, *MLP)
    made(*fit, "--out", tmp_path / "whole")
    made(*fit, "--out", tmp_path / "parts", "--set", "trainer.eval_batch=7")
    whole, parts = (
        pq.read_table(tmp_path / name)["irreducible_loss"].to_numpy() for name in ("whole", "parts")
    )
    np.testing.assert_allclose(whole, parts, rtol=1e-5)


def test_losses_of_one_s_own_are_fitted_on_the_model_s_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though there are GPUs."""
    gpus(monkeypatch, 1)
    quick = {"trainer": {"lr": 0.1}}
    points = [(torch.eye(4)[n % 4], n % 4) for n in range(40)]
    options = FitOptions(batch=8, epochs=1)
    il = fit_irreducible_losses(
        torch.nn.Linear(4, 4), points, folds=2, options=options, config=quick
    )
    assert il.shape == (40,)


def test_a_fit_leaves_the_random_numbers_of_its_caller(dataset_dir: Path) -> None:
    sets = ["model.args.width=8"]
    config = irreducible_config(str(dataset_dir), "rhoselect.models:mlp", sets)
    before = torch.get_rng_state()
    fit_holdout(config, FitOptions(batch=64, epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


class Watched(SplitPoints):
    """Points that tell which of them were read."""

    def __init__(self) -> None:
        super().__init__((0, 6))
        self.was_read = [threading.Event() for _ in range(6)]

    def read(self, indices: Indices, device: torch.device, epochs: Indices | None = None) -> Batch:
        for index in indices.tolist():
            self.was_read[index].set()
        return Batch(indices, (F.one_hot(torch.from_numpy(indices), 6).float(), torch.zeros(1)))

    def labels(self, indices: Indices) -> Labels:
        return np.zeros(len(indices), np.int64)

    def clean_labels(self, indices: Indices) -> Labels | None:
        return None


def test_points_are_read_while_those_before_them_are_at_work() -> None:
    points = Watched()
    batches = read_ahead(points, points.indices.reshape(6, 1), CPU)
    assert next(batches).indices.tolist() == [0]
    assert points.was_read[1].wait(60), "nothing asked for it"
    assert points.was_read[2].wait(60)
    assert not points.was_read[3].is_set(), "memory is bounded"
    assert [batch.indices.tolist() for batch in batches] == [[n] for n in range(1, 6)]
