"""Irreducible losses of a data set of the user's own are those that ``rhoctl il fit`` gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhoselect.client import SelectionBatch, SelectionClient, fit_irreducible_losses
from rhoselect.data import open_data
from rhoselect.errors import ModelError
from rhoselect.models import configured_model
from rhoselect.trainer.fit import FitOptions, fit_folds, fit_holdout, irreducible_config

CPU = torch.device("cpu")
OPTIONS = FitOptions(batch=32, epochs=2)
Pairs = list[tuple[Tensor, int]]


def pairs(folder: Path, split: str) -> Pairs:
    """A split as a data set of the user's own."""
    points = open_data(irreducible_config(str(folder), "m:m").data).split(split)
    read = points.read(points.indices, CPU)
    return list(zip(read.inputs, read.labels.tolist(), strict=True))


def own_losses(model: nn.Module, batch: SelectionBatch) -> Tensor:
    assert batch.labels is not None
    return F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")


@pytest.mark.parametrize("losses", [None, own_losses])
def test_they_are_those_of_the_command(dataset_dir: Path, losses: Any) -> None:
    """By a holdout and by folds; torch's random numbers go on as if nothing had been."""
    config = irreducible_config(
        str(dataset_dir), "rhoselect.models:mlp", ["model.args.width=16", "trainer.lr=1e-2"]
    )
    dataset = open_data(config.data)
    model = configured_model(config.model, dataset.input_shape, dataset.classes, config.seed)
    given = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data, holdout = pairs(dataset_dir, "train"), pairs(dataset_dir, "holdout")
    more: dict[str, Any] = {"options": OPTIONS, "config": {"trainer": {"lr": 1e-2}}}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    il = fit_irreducible_losses(model, data, holdout=holdout, losses=losses, **more)
    crossed = fit_irreducible_losses(model, data, folds=2, losses=losses, **more)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(given[name], tensor) for name, tensor in model.state_dict().items())
    assert il.dtype == torch.float32
    assert np.array_equal(il, fit_holdout(config, OPTIONS)[0].values)
    assert np.array_equal(crossed, fit_folds(config, 2, OPTIONS).values)
    selection = {"n_b": 8, "n_B": 32, "chunk": 32}
    steps = {"selection": selection, "trainer": {"steps": 1}}
    with SelectionClient(
        model, local=True, config=steps, data=data, irreducible_losses=il
    ) as client:
        assert next(iter(client)).indices.shape == (8,)


def test_losses_to_be_doubted_are_told(dataset_dir: Path) -> None:
    """A guess knows the labels; with losses of the loop's own it is the model before the fit."""
    data, holdout = pairs(dataset_dir, "train"), pairs(dataset_dir, "holdout")
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 4))
    much: dict[str, Any] = {"options": OPTIONS, "config": {"trainer": {"lr": 3.0}}}
    with pytest.warns(UserWarning, match=r"has learnt next to nothing .* of a guess 1\.37"):
        fit_irreducible_losses(model, data, holdout=holdout, **much)
    with pytest.warns(UserWarning, match="next to nothing .* of the model before the fit"):
        fit_irreducible_losses(model, data, holdout=holdout, losses=own_losses, **much)
    rate = {"trainer": {"lr": 2e-2, "schedule": "constant"}}
    with pytest.warns(UserWarning, match="overfits"):
        fit_irreducible_losses(
            model, data, holdout=holdout, options=FitOptions(batch=32, epochs=20), config=rate
        )


def test_what_is_no_model_is_told() -> None:
    data = [(torch.zeros(2), 0), (torch.ones(2), 1)]
    with pytest.raises(ModelError, match="model: got a function"):
        fit_irreducible_losses(own_losses, data, folds=2)  # type: ignore[arg-type]
