"""`trainer.label_smoothing` changes the update, and neither scores nor what is recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rhoselect.compute import threads
from rhoselect.config import TrainerConfig
from rhoselect.errors import ConfigError
from rhoselect.tasks import Classification
from rhoselect.trainer.learner import Learner
from rhoselect.trainer.smoothing import trained_losses
from rhoselect.types import Batch, Losses
from support import hashes, made

LR, SHARE = 0.05, 0.3


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))


def batch(seed: int) -> Batch:
    random = torch.Generator().manual_seed(seed)
    inputs = torch.randn(12, 8, generator=random)
    labels = torch.randint(5, (12,), generator=random)
    return Batch(np.arange(12, dtype=np.int64), (inputs, labels))


@pytest.mark.parametrize("weighted", [False, True])
def test_steps_equal_those_of_a_plain_loop(weighted: bool) -> None:
    config, plain = TrainerConfig(lr=LR, label_smoothing=SHARE), network()
    learner = Learner(network(), config, 0, torch.device("cpu"), Classification())
    optimizer = torch.optim.AdamW(plain.parameters(), lr=LR, fused=True)
    weights = torch.linspace(0, 3, 12) if weighted else None
    with threads(1):
        for step in range(6):
            points = batch(step)
            logits = plain(points.inputs)
            losses = F.cross_entropy(logits, points.labels, reduction="none").detach()
            smooth = nn.CrossEntropyLoss(reduction="none", label_smoothing=SHARE)
            trained = smooth(logits, points.labels)
            optimizer.zero_grad()
            (trained if weights is None else weights * trained).mean().backward()
            optimizer.step()
            result = learner.update(points, weights, step)
            assert torch.equal(result.losses, losses)
            assert result.loss == (losses if weights is None else weights * losses).mean()
            others = plain.state_dict()
            for name, tensor in learner.model.state_dict().items():
                assert torch.equal(tensor, others[name]), name


def test_scores_and_records_are_those_of_the_plain_loss(tiny_config: Path, tmp_path: Path) -> None:
    """Under weights that do not learn, as no group has a learning rate."""
    still, records = "trainer.groups=[{lr_factor = 0.0}]", []
    for share, *more in ((0.0, still), (SHARE, still), (SHARE,)):
        run = tmp_path / f"{share}{len(more)}"
        keys = [f"trainer.label_smoothing={share}", "trainer.steps=6", *more]
        made("train", tiny_config, "--run-dir", run, *(w for key in keys for w in ("--set", key)))
        rows = pq.read_table(run / "steps.parquet", columns=["indices", "scores", "loss"])
        records.append((hashes(run), rows.to_pylist()))
    assert records[0] == records[1]
    assert records[2][1][0] == records[0][1][0], "the first window has the first weights' scores"
    assert records[2][1][1:] != records[0][1][1:]


def test_losses_without_classes_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"label_smoothing: got 0\.1, allowed 0 for losses without"
    ):
        trained_losses(Losses(torch.ones(3)), 0.1)
    losses = torch.ones(3)
    assert trained_losses(Losses(losses), 0.0) is losses
