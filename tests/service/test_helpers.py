"""Scorers in threads beside a loop select what the loop's own process does."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from service_helpers import hashes, inputs
from torch import Tensor, nn

from rhoselect.client import SelectionClient
from rhoselect.client.batch import SelectionBatch
from rhoselect.client.helpers import check_threads
from rhoselect.errors import ConfigError

pytestmark = pytest.mark.usefixtures("away")


@pytest.mark.parametrize("lag", [0, 1])
def test_threads_change_no_result(tiny_config: Path, lag: int) -> None:
    run = inputs(tiny_config, [f"selection.lag={lag}", "trainer.steps=8"])
    where: dict[str, Any] = {"local": True, "config": run.config.model_dump(), "run_dir": None}
    assert hashes(run, **where, workers=2) == hashes(run, **where)
    alive = [each.name for each in threading.enumerate() if each.name.startswith("scorer-")]
    assert not alive, "they end with the loop"


def broken(model: nn.Module, batch: SelectionBatch) -> Tensor:
    """Fails in the threads alone."""
    if threading.current_thread().name.startswith("scorer-"):
        raise ZeroDivisionError("of a scorer")
    return model(batch.inputs).square().mean(1)


def test_what_ends_a_scorer_ends_the_loop() -> None:
    selection = SelectionClient(
        nn.Linear(4, 2),
        local=True,
        config={
            "selection": {"n_b": 2, "n_B": 16, "chunk": 4, "function": "loss"},
            "trainer": {"steps": 4, "scores": False},
        },
        data=list(torch.randn(64, 4)),
        losses=broken,
        workers=2,
        run_dir=None,
    )
    with pytest.raises(ZeroDivisionError, match="of a scorer"):
        next(iter(selection))
    selection.close()


def test_threads_do_not_score_on_a_gpu(tiny_config: Path) -> None:
    replicas: Any = [SimpleNamespace(device=torch.device("cuda", 0))] * 3
    words = r"workers: got 2 for scorers on cuda:0, allowed 0: .* rhoctl serve --workers N"
    with pytest.raises(ConfigError, match=words):
        check_threads(inputs(tiny_config), replicas)


def test_mistakes_of_workers(tiny_config: Path) -> None:
    model = inputs(tiny_config).new_model()
    for words, arguments in (
        ("got workers = -1, allowed 0 to", {"local": True, "config": tiny_config, "workers": -1}),
        ("workers = 2 with an address", {"address": "127.0.0.1:1", "workers": 2}),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            SelectionClient(model, **arguments)
        assert "\n" not in str(caught.value)
