"""What a run shows of itself in a tracker, read back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from service_helpers import inputs, train

import threaded
from rhoselect.client import SelectionClient
from rhoselect.errors import ConfigError
from rhoselect.trainer.records import read_steps

pytestmark = pytest.mark.usefixtures("away")


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    names = found.Tags()["scalars"]
    return {name: [(each.step, each.value) for each in found.Scalars(name)] for name in names}


def test_tensorboard_has_the_figures_of_a_run(tiny_config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    threaded.run(tiny_config, folder, 0, ["trainer.tracker=tensorboard"])
    found = shown(folder)
    rows = read_steps(folder).to_pylist()
    losses = [(row["step"] + 1, pytest.approx(row["loss"])) for row in rows]
    assert found["train/loss"] == losses
    assert [step for step, _ in found["selection/wait_ms"]] == list(range(1, 21))
    assert {value for _, value in found["selection/staleness_steps"]} == {0.0}
    assert [step for step, _ in found["test/accuracy"]] == [10, 20]


class Kept:
    """A tracker of a user's own."""

    seen: list[tuple[int, Mapping[str, float]]] = []  # noqa: RUF012
    closed = 0

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder

    def log(self, step: int, values: Mapping[str, float]) -> None:
        Kept.seen.append((step, values))

    def close(self) -> None:
        Kept.closed += 1


def test_a_loop_tells_a_tracker_of_one_s_own(tiny_config: Path, tmp_path: Path) -> None:
    run = inputs(tiny_config, [f"trainer.tracker={__name__}:Kept", "trainer.steps=3"])
    model = run.new_model()
    where: dict[str, Any] = {"local": True, "config": run.config.model_dump()}
    selection = SelectionClient(model, **where, run_dir=tmp_path / "run")
    train(run, selection, model)
    selection.log(3, accuracy=0.5)
    assert [step for step, _ in Kept.seen] == [1, 2, 3, 3]
    assert Kept.seen[-1][1]["test/accuracy"] == 0.5 and "train/loss" in Kept.seen[0][1]
    assert Kept.closed >= 1
    where["config"]["trainer"]["tracker"] = "board"
    with pytest.raises(ConfigError, match=r"trainer\.tracker: got 'board', allowed 'module:name'"):
        SelectionClient(model, **where, run_dir=tmp_path / "other")
