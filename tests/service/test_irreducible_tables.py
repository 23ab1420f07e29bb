"""Tables of irreducible losses of the user's own data: of tokens, of a ready model, and which data
they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from rhoselect.client import SelectionClient, fit_irreducible_losses
from rhoselect.data.token_losses import COLUMN
from rhoselect.errors import (
    ConfigError,
    IrreducibleLossError,
)
from rhoselect.models import configured_model
from rhoselect.trainer.fit import (
    FitOptions,
    fit_folds,
    fit_holdout,
    irreducible_config,
    score_reference,
)
from task_code import Points, Recurrent

OPTIONS = FitOptions(batch=8, epochs=8)
TOKENS = FitOptions(batch=8, epochs=1, tokens=True)
DEVICE = ["trainer.device=cpu", "trainer.lr=5e-2"]
CPU = {"trainer": {"device": "cpu", "lr": 5e-2}}
LM = {**CPU, "task": {"name": "causal_lm"}}


def test_tokens_are_those_of_the_command(tmp_path: Path) -> None:
    """By a holdout, by folds and by a ready model, of sequences of different lengths; the task
    joins them. Short as they are, some are alike."""
    sets = ["data.args.kind=sequence", "task.name=causal_lm", *DEVICE]
    config = irreducible_config("task_code:Points", "task_code:Recurrent", sets)
    model = configured_model(config.model, (), 0, config.seed)
    data, holdout = Points("train", "sequence"), Points("holdout", "sequence")
    ways: list[tuple[dict[str, Any], Any]] = [
        ({"holdout": holdout}, fit_holdout(config, TOKENS)[0]),
        ({"folds": 2}, fit_folds(config, 2, TOKENS)),
        ({"reference": True}, score_reference(config, TOKENS)[0]),
    ]
    for number, (way, expected) in enumerate(ways):
        path = tmp_path / f"{number}.parquet"
        keys = {**LM, "il": {"overlap": "allow"}}
        il = fit_irreducible_losses(model, data, options=TOKENS, config=keys, out=path, **way)
        assert np.array_equal(il, expected.values)
        rows = pq.read_table(path)
        assert rows["irreducible_loss"].to_pylist() == expected.values.tolist()
        flat = rows[COLUMN].combine_chunks()
        assert expected.tokens is not None
        assert flat.value_lengths().to_pylist() == expected.tokens.counts.tolist()
        assert np.array_equal(flat.flatten(), expected.tokens.values)


def points(count: int, seed: int = 0) -> list[tuple[Tensor, int]]:
    inputs = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return [(row, int(row.argmax())) for row in inputs]


def chosen(data: Any, losses: Any, **more: Any) -> list[int]:
    selection = {"n_b": 4, "n_B": 16, "chunk": 16}
    config = {"selection": selection, "trainer": {"steps": 1}, "scorer": {"precision": "fp32"}}
    how = {"config": config, "local": True, "run_dir": None, **more}
    torch.manual_seed(0)
    with SelectionClient(nn.Linear(3, 3), data=data, irreducible_losses=losses, **how) as client:
        return next(iter(client)).indices.tolist()


def test_a_table_is_for_its_points_alone(tmp_path: Path) -> None:
    """A client takes the file as the numbers, also where a model needs other parts of the points,
    and refuses it for other points."""
    data, path = points(64), tmp_path / "il.parquet"
    small, more = nn.Linear(3, 3), {"options": OPTIONS, "config": CPU}
    il = fit_irreducible_losses(small, data, holdout=points(32, 1), out=path, **more)
    assert chosen(data, path) == chosen(data, il)
    with pytest.raises(IrreducibleLossError, match=r"made for data with other inputs, labels, all"):
        chosen(points(64, 2), path)
    with pytest.raises(IrreducibleLossError, match=r"table of 64 points, allowed the 48"):
        chosen(points(48), path)
    with pytest.raises(ConfigError, match=r"out: got .*, which exists, allowed a new file"):
        fit_irreducible_losses(small, data, folds=2, out=path, **more)

    def named(*names: str) -> list[dict[str, Any]]:
        return [{**dict.fromkeys(names, row), "labels": label} for row, label in data]

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, rows: Tensor, others: Tensor | None = None) -> Tensor:
            return self.linear(rows)  # type: ignore[no-any-return]

    dicts = tmp_path / "dicts.parquet"
    fit_irreducible_losses(Both(), named("rows", "others"), folds=2, out=dicts, **more)
    config = {"selection": {"n_b": 4, "n_B": 16, "chunk": 16}, "trainer": {"steps": 1}}
    how = {"config": config, "local": True, "run_dir": None, "irreducible_losses": dicts}
    SelectionClient(Both(), data=named("rows"), **how).close()


def test_a_holdout_has_no_point_of_the_data() -> None:
    """Whatever objects they are in; unless it is allowed."""
    data, model = points(64), nn.Linear(3, 3)
    more: dict[str, Any] = {"options": OPTIONS, "config": CPU}
    copied = [(row.clone(), label) for row, label in data]
    for holdout, told in (
        (data, r"got 64 points of 64 that are in data, too, such as item 0, which is item 0 of"),
        (Subset(data, range(40, 60)), r"got 20 points of 20 .* item 0, which is item 40 of data"),
        ([*points(16, 1), copied[7]], r"got 1 points of 17 .* item 16, which is item 7 of data"),
    ):
        with pytest.raises(IrreducibleLossError, match=told):
            fit_irreducible_losses(model, data, holdout=holdout, **more)
    allowed = {**more, "config": {**more["config"], "il": {"overlap": "allow"}}}
    fit_irreducible_losses(model, data, holdout=data, **allowed)
    ids, words = Points("train", "sequence"), {**more, "config": LM}
    with pytest.raises(IrreducibleLossError, match=r"got 64 points of 64"):
        fit_irreducible_losses(Recurrent(), ids, holdout=ids, **words)
