"""Runs side by side: who reaches the uniform run's best accuracy, when, and how much sooner."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from rhoselect.config import Config, DataConfig
from rhoselect.errors import RunFolderError
from rhoselect.launch.report import Run, comparison, figure, load_run, table, write_page
from rhoselect.trainer.evaluate import Evaluation
from rhoselect.trainer.records import Records, StepRecord
from rhoselect.trainer.runfolder import RunFolder


def run(
    method: str, accuracy: list[float], every: int = 100, corrupted_share: float | None = 0.1
) -> Run:
    """A run with an evaluation each ``every`` steps, which take ``every`` / 50 seconds."""
    steps = every * np.arange(1, len(accuracy) + 1)
    summary = {
        "method": method,
        "workers": 2,
        "seed": 0,
        "steps": 3000,
        "best_accuracy": max(accuracy),
        "final_accuracy": accuracy[-1],
        "wall_seconds": 7.5,
        "il_seconds": 3.0,
    }
    return Run(f"my-{method}", summary, steps, steps / 50, np.array(accuracy), corrupted_share)


UNIFORM = run("uniform", [0.1, 0.2, 0.6, 0.7, 0.5, 0.4])  # smooth: .15 .3 .5 .6 .533 .45
RHO = run("reducible_loss", [0.3, 0.4, 0.9, 0.8], every=50)  # smooth: .35 .533 .7 .85
SLOW = run("loss", [0.1, 0.9, 0.1, 0.1], corrupted_share=None)  # smooth: .5 .3667 .3667 .1


def test_accuracy_is_smoothed_over_three_neighbours_and_two_at_the_ends() -> None:
    np.testing.assert_allclose(UNIFORM.smooth, [0.15, 0.3, 0.5, 0.6, 1.6 / 3, 0.45])
    np.testing.assert_allclose(RHO.smooth, [0.35, 1.6 / 3, 0.7, 0.85])


@pytest.mark.parametrize("accuracy", [[0.5], [0.5, 0.7]])
def test_a_run_with_fewer_than_three_evaluations_can_be_reported(accuracy: list[float]) -> None:
    short = run("uniform", accuracy)
    np.testing.assert_allclose(short.smooth, [np.mean(accuracy)] * len(accuracy))
    assert comparison([short])[0]["steps_to_target"] == 100
    assert figure([short]).startswith(b"\x89PNG")


def test_runs_are_compared_at_the_uniform_runs_best_smoothed_accuracy() -> None:
    rows = {row["method"]: row for row in comparison([RHO, SLOW, UNIFORM])}
    assert {row["target_accuracy"] for row in rows.values()} == {0.6}
    uniform, rho, slow = rows["uniform"], rows["reducible_loss"], rows["loss"]
    assert (uniform["steps_to_target"], uniform["seconds_to_target"]) == (400, 8.0)
    assert uniform["step_speedup"] == 1
    assert (rho["steps_to_target"], rho["seconds_to_target"]) == (150, 3.0)
    assert rho["step_speedup"] == pytest.approx(400 / 150)
    assert slow["steps_to_target"] is None
    assert slow["seconds_to_target"] is None
    assert slow["step_speedup"] is None
    assert (rho["run"], rho["workers"], rho["il_seconds"]) == ("my-reducible_loss", 2, 3.0)
    assert (rho["best_accuracy"], rho["final_accuracy"]) == (0.9, 0.8)
    assert (rho["corrupted_share"], slow["corrupted_share"]) == (0.1, None)
    assert json.loads(json.dumps(rows)) == rows, "plain values, for --json"


def test_without_a_uniform_run_the_first_sets_the_target() -> None:
    rows = comparison([SLOW, RHO])
    assert rows[0]["target_accuracy"] == 0.5
    assert [row["steps_to_target"] for row in rows] == [100, 100]


def test_the_table_shows_every_run_and_says_what_was_not_reached() -> None:
    console = Console(file=io.StringIO(), width=160)
    console.print(table(comparison([UNIFORM, RHO, SLOW])))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "0.6000" in text
    uniform, rho, slow = (
        next(line for line in text.splitlines() if f"my-{method} " in line)
        for method in ("uniform", "reducible_loss", "loss")
    )
    assert "not reached" not in uniform + rho
    assert "400" in uniform
    assert "2.7x" in rho
    assert "10.0%" in rho
    assert slow.count("not reached") >= 3


def test_the_figure_is_a_png_that_shows_the_runs() -> None:
    both = figure([UNIFORM, RHO])
    pixels = imread(io.BytesIO(both), format="png")
    assert pixels.shape[:2] == (480, 1200)
    assert both != figure([UNIFORM])
    assert figure([run("uniform", [0.9])]) != figure([run("uniform", [0.9], every=70)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run of four steps and two evaluations."""
    made = RunFolder.create(tmp_path / "<b>run", Config(data=DataConfig(path="data")))
    records = Records(made, 0)
    for step, corrupted_share in enumerate([0.25, None, 0.0, 0.5]):
        indices = np.array([step], np.int64)
        row = StepRecord(step, step, indices, [0.5], 1.0, 0, 32, 0.1, 0.2, corrupted_share, 0.5)
        records.append(row)
    records.flush()
    records.add_evaluation(2, 0.5, Evaluation(0.4, 1.0, 0.1))
    records.add_evaluation(4, 1.5, Evaluation(0.6, 1.0, 0.1))
    records.finish(run("uniform", [0.4, 0.6]).summary | {"note": "<script>"})
    return made.path


def test_a_run_is_read_back_from_its_folder(folder: Path) -> None:
    found = load_run(folder)
    assert found.name == "<b>run"
    assert found.steps.tolist() == [2, 4]
    assert found.seconds.tolist() == [0.5, 1.5]
    assert found.accuracy.tolist() == [0.4, 0.6]
    assert found.corrupted_share == 0.25, "the mean over the steps where it is known"
    assert found.summary["method"] == "uniform"


def test_a_run_that_is_not_finished_is_told_how_to_finish(folder: Path) -> None:
    (folder / "summary.json").unlink()
    with pytest.raises(RunFolderError, match="--resume --run-dir"):
        load_run(folder)


def test_the_page_holds_figure_and_summary(folder: Path) -> None:
    write_page(folder)
    page = (folder / "report.html").read_text()
    image = re.search(r'src="data:image/png;base64,([^"]+)"', page)
    assert image is not None
    assert base64.b64decode(image[1]) == figure([load_run(folder)])
    for key in load_run(folder).summary:
        assert f"<th>{key}</th>" in page
    assert "<b>" not in page
    assert "<script>" not in page
