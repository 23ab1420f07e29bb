"""A Trainer whose points a service chooses learns what one does that scores itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from service_helpers import inputs, service
from trainer_helpers import (
    CHUNK,
    CONFIG,
    STEPS,
    accumulated,
    n_B,
    n_b,
    sentences,
    small_bert,
    trainer,
)

from rhoselect.errors import ConfigError, DataError
from rhoselect.inputs import RunInputs
from rhoselect.trainer.records import read_steps

pytestmark = pytest.mark.usefixtures("away")
BY_LOSS = {"n_B": n_B, "chunk": CHUNK, "function": "loss"}


def served(tmp_path: Path, *sets: str) -> RunInputs:
    config = tmp_path / "served.toml"
    config.write_text(CONFIG)
    return inputs(config, list(sets))


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with service(served(tmp_path), tmp_path / "served") as address:
        yield address


@pytest.mark.parametrize("parts", [1, 2], ids=["whole", "accumulated"])
def test_it_learns_what_a_trainer_that_scores_does(
    address: str, tmp_path: Path, parts: int
) -> None:
    """To the same weights, logs and records, also when it goes on from within an epoch."""
    often = {"save_strategy": "steps", "save_steps": 3, "logging_steps": 1}
    arguments = {**accumulated(parts), **often}

    def trained(name: str, checkpoint: Path | None = None, **where: Any) -> tuple[Any, Any]:
        model = small_bert(dropout=0.3)
        made = trainer(tmp_path / name, model, sentences(), arguments=arguments, **where)
        made.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        keys = ("step", "loss", "selection_score", "selection_staleness", "selection_share_kept")
        rows = [row for row in made.state.log_history if "loss" in row]
        return model.state_dict(), [[row[key] for key in keys] for row in rows]

    weights, told = trained("own", selection=BY_LOSS, run_dir=tmp_path / "run")
    there = {"selection": None, "address": address}
    for checkpoint in (None, tmp_path / "there" / "checkpoint-3"):
        again, told_again = trained("there", checkpoint, **there)
        assert told_again == told and len(told) == STEPS
        assert {name for name in weights if not torch.equal(weights[name], again[name])} == set()
        assert read_steps(tmp_path / "served", ["indices"]) == read_steps(
            tmp_path / "run", ["indices"]
        )
    assert {row[-1] for row in told} == {n_b / n_B}


def test_what_does_not_fit_the_service_is_refused(address: str, tmp_path: Path) -> None:
    def made(data: list[dict[str, Any]], **more: Any) -> Any:
        where = {"selection": None, "address": address, **more}
        return trainer(tmp_path, small_bert(), data, **where)

    rows = sentences()
    other = [{**row, "labels": (row["labels"] + 1) % 3} for row in rows]
    for words, data, arguments in (
        (
            r"selection\.n_b: got 8 of the service, allowed the 16",
            rows,
            {"gradient_accumulation_steps": 2},
        ),
        (r"trainer\.steps: got 10 of the service, allowed the 7", rows, {"max_steps": 7}),
        (r"train_dataset: got label \d for point \d+, allowed \d", other, {}),
        (r"data: got 64 points, allowed the 128", rows[:64], {}),
    ):
        with pytest.raises((ConfigError, DataError), match=words) as caught:
            made(data, arguments=arguments).train()
        assert "\n" not in str(caught.value)
    for words, more in (
        ("a service has its own configuration", {"selection": BY_LOSS}),
        ("workers = 2 with an address", {"workers": 2}),
        ("got losses or irreducible_losses", {"irreducible_losses": torch.rand(128)}),
        ("run_dir '.*' with an address", {"run_dir": tmp_path / "run"}),
    ):
        with pytest.raises(ConfigError, match=words):
            made(rows, **more)


def test_checkpoints_of_a_service_with_a_lag_are_of_the_weights_alone(tmp_path: Path) -> None:
    run = served(tmp_path, "selection.lag=1", "selection.audit_every=4")
    saves = {"save_strategy": "steps", "save_steps": 4, "logging_steps": 5}
    with service(run, tmp_path / "served") as address:
        where = {"selection": None, "address": address, "arguments": saves}
        made = trainer(tmp_path / "out", small_bert(), sentences(), **where)
        with pytest.warns(UserWarning, match=r"selection\.lag: got 1 of the service, so check"):
            made.train()
        with pytest.raises(ConfigError, match=r"has no selection\.pt, allowed .* begin a new run"):
            made.train(resume_from_checkpoint=True)
    told = [row for row in made.state.log_history if "loss" in row]
    assert [row["selection_staleness"] for row in told] == [0.8, 1.0]
    assert all(0 < row["selection_rank_agreement"] <= 1 for row in told)
