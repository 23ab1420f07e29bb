"""Comparisons of a task that is measured by something else than accuracy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from rhoselect import config as configuration
from rhoselect.comparison import document, results
from rhoselect.comparison.arms import Clock
from rhoselect.comparison.protocol import Case
from rhoselect.comparison.rules import Rules, Setting
from support import made

CLOCK = Clock(uniform_s=1.0, wide_s=3.0, selection_s=2.5, il_s=50.0)
RULES = Rules((10.0,), False, 2, (1.0,), 0.25, (0.1,), 25)


def test_a_comparison_is_by_the_metric_of_the_task(tiny_config: Path, tmp_path: Path) -> None:
    """Of a task whose log loss is measured the least is best: for the rates, and in the table."""
    out = tmp_path / "out"
    (out / "runs").mkdir(parents=True)
    reference = {"machine": {"cpu": "slow", "cores": 1}, "clock": vars(CLOCK)}
    (out / "reference-tiny.json").write_text(json.dumps(reference))
    others = "uniform_wide,uniform_holdout,cleaned,infobatch,charged"
    sets = ("--set", "task.name=task_code:ByLoss", "--set", "selection.function=loss")
    command = ("compare", tiny_config, "--budget", "8", "--rates", "0.1,3", "--seeds", "2", *sets)
    made(*command, "--without", others, "--out", out)
    found = json.loads((out / "results.json").read_text())
    for row in found["rows"]:
        assert (row["metric"], row["metric_direction"]) == ("log_loss", "min")
        tried = {
            rate: json.loads((out / "runs" / name / "summary.json").read_text())["final_log_loss"]
            for rate in (0.1, 3)
            for name in [f"tiny-8s-{row['arm']}-tune-{rate:g}"]
        }
        assert tried[0.1] != tried[3]
        base = configuration.load(tiny_config).trainer.lr
        assert row["lr"] == pytest.approx(min(tried, key=lambda rate: tried[rate]) * base)
    table = (out / "table.md").read_text()
    assert "| final log loss |" in table and "accuracy |" not in table
    axes = Figure().add_subplot()
    document.panel("tiny", found["rows"], axes)
    assert axes.get_xlabel() == "final test log loss"


@pytest.mark.parametrize(
    ("finals", "said"),
    [
        ([0.7, 0.72], "with scoring free wins against uniform by 0.1 of log loss (standard error"),
        ([0.9, 0.92], "with scoring free loses against uniform by 0.1 of log loss (standard error"),
        ([0.7, 0.92], "with scoring free draws with uniform: +0 of log loss (standard error 0.1)"),
    ],
    ids=["wins", "loses", "draws"],
)
def test_a_verdict_knows_that_less_is_better(
    tiny_config: Path, tmp_path: Path, finals: list[float], said: str
) -> None:
    sets = ["task.name=task_code:ByLoss", "selection.function=loss"]
    case = Case(Setting(tiny_config, sets, RULES, tmp_path), "10", 10.0, CLOCK, [], {"charged": ""})
    assert said in results.verdict(case, {"uniform": [0.8, 0.82], "loss": finals}, 25)
