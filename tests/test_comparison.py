"""Comparisons at equal budgets: points, costs and verdicts by hand, and a small one end to end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from rhoselect import config as configuration
from rhoselect.cli.comparing import comparison_in, run_all
from rhoselect.comparison import arms, results
from rhoselect.comparison.arms import Clock
from rhoselect.comparison.points import Points, Source
from rhoselect.comparison.protocol import Case, Comparison
from rhoselect.comparison.rules import Rules, Setting
from rhoselect.config import Config
from rhoselect.data import ArrowDataset
from rhoselect.data.il_table import read_table
from rhoselect.errors import ConfigError, RunStopped
from rhoselect.importers import write_dataset
from rhoselect.report.metric import Metric
from support import made, patches, rhoctl

MAP = Path(__file__).parent.parent / "benchmarks" / "compare"
WALK = ("selection.function=infobatch", "selection.n_B=8", "selection.chunk=8")
CLOCK = Clock(uniform_s=1.0, wide_s=3.0, selection_s=2.5, il_s=50.0)
RULES = Rules((10.0,), False, 2, (1.0,), 0.25, (0.1,), 25)


def rows(folder: Points) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [N, pixels] of the train and of the test split of a data set."""
    dataset = ArrowDataset.open(folder.path)
    splits = (dataset.split(name) for name in ("train", "test"))
    train, test = (s.stored(s.indices).reshape(len(s), -1) for s in splits)
    return train, test


def in_common(some: np.ndarray, others: np.ndarray) -> int:
    """How many rows of ``some`` are among ``others``."""
    known = {row.tobytes() for row in others}
    return sum(row.tobytes() in known for row in some)


def test_rates_are_chosen_on_points_of_the_train_split_that_no_trial_learns(
    tiny_config: Path, tmp_path: Path
) -> None:
    config = configuration.load(tiny_config)
    source = Source(config, 0.25, tmp_path)
    whole, test = rows(source.make("train", 0.0, tuned=False))
    tuned = source.make("train", 0.0, tuned=True)
    learnt, validated = rows(tuned)
    assert (len(learnt), len(validated)) == (300, 100)
    assert in_common(learnt, validated) == in_common(validated, test) == 0
    assert in_common(np.concatenate([learnt, validated]), whole) == 400
    joined, tested = rows(source.make("joined", 0.0, tuned=False))
    assert (len(joined), in_common(whole, joined), in_common(tested, test)) == (600, 400, 100)


def test_irreducible_losses_follow_their_points_and_cleaning_drops_the_highest(
    tiny_config: Path, tmp_path: Path
) -> None:
    source = Source(configuration.load(tiny_config), 0.25, tmp_path)
    whole, _ = rows(source.make("train", 0.0, tuned=False))
    assert source.table is not None
    losses = {row.tobytes(): loss for row, loss in zip(whole, source.table.values, strict=True)}
    kept = source.make("clean", 0.1, tuned=False)
    assert kept.table is not None
    clean, _ = rows(kept)
    dataset = ArrowDataset.open(kept.path)
    table = read_table(kept.table, dataset.fingerprint, dataset.splits["train"])
    assert table.values.tolist() == [losses[row.tobytes()] for row in clean]
    assert sorted(table.values) == sorted(source.table.values)[:360]


def test_exact_duplicates_are_dropped_once(tmp_path: Path) -> None:
    images = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1).repeat(4, axis=2).repeat(4, axis=3)
    split = images, np.arange(8) % 2
    write_dataset(tmp_path / "d", "image", {"train": split, "test": split}, duplicates=3)
    config = configuration.apply({"data": {"path": str(tmp_path / "d")}}, [])
    source = Source(config, 0.25, tmp_path / "parts")
    assert source.has_copies()
    distinct, _ = rows(source.make("distinct", 0.0, tuned=False))
    assert sorted(distinct[:, 0].tolist()) == list(range(8))


@pytest.mark.parametrize("noise", [0, 10, 40])
def test_the_configurations_of_the_map_are_valid_and_differ_in_their_noise_alone(
    noise: int,
) -> None:
    config = configuration.load(MAP / f"mlp_noise{noise}.toml")
    first = configuration.load(MAP / "mlp_noise0.toml")
    assert str(config.data.path).endswith(f"data/compare/noise{noise}")
    assert config.il.table == f"{config.data.path}-il.parquet"
    alike = {"data": first.data, "il": first.il}
    assert config.model_copy(update=alike) == first


def test_every_arm_has_the_steps_that_fit_into_the_budget(tiny_config: Path) -> None:
    config = configuration.load(tiny_config)  # 64 candidates for 8 points: 3 scorers
    found = {a.name: a for a in arms.arms_of(config, CLOCK, 100.0, 25, (True, True))}
    steps = {name: arm.steps for name, arm in found.items()}
    assert steps.pop("charged") == 39  # (100 - 50 / 25) / 2.5
    assert set(steps.values()) == {100}
    assert found["uniform_wide"].keys["selection.n_B"] == 4 * 8
    assert found["infobatch"].keys["selection.n_B"] == 8
    name = "reducible_loss"
    assert arms.cost(found[name], CLOCK, "free", 1, 3) == (100, 100)
    assert arms.cost(found[name], CLOCK, "one", 5, 3) == (260, 260)
    assert arms.cost(found[name], CLOCK, "many", 5, 3) == (110, 410)
    assert arms.cost(found[name], CLOCK, "many", 5, 1) == (160, 310), "one scorer is too slow"
    assert arms.cost(found["uniform_wide"], CLOCK, "many", 5, 3) == (100, 400)
    assert arms.cost(found["cleaned"], CLOCK, "many", 25, 3) == (102, 102)
    assert arms.cost(found["uniform"], CLOCK, "one", 1, 3) == (100, 100)
    assert arms.cost(found["infobatch"], CLOCK, "many", 1, 3) == (100, 100)


@pytest.mark.parametrize(
    ("finals", "charged", "said"),
    [
        ([0.9, 0.92], None, "with scoring free wins against uniform by 10.00 points"),
        ([0.7, 0.72], None, "with scoring free loses against uniform by 10.00 points"),
        ([0.7, 0.92], None, "with scoring free draws with uniform: +0.00 points"),
        ([0.9, 0.92], [0.7, 0.72], "shared by 25 runs, loses against uniform by 10.00 points"),
        ([0.9, 0.92], None, "charged on one device it was not run (too dear)"),
    ],
    ids=["wins", "loses", "draws", "loses where it pays", "cannot pay"],
)
def test_the_verdict_says_loses_as_plainly_as_wins(
    tiny_config: Path,
    tmp_path: Path,
    finals: list[float],
    charged: list[float] | None,
    said: str,
) -> None:
    setting = Setting(tiny_config, [], RULES, tmp_path)
    case = Case(setting, "10", 10.0, CLOCK, [], {"charged": "too dear"})
    found = {"uniform": [0.8, 0.82], "reducible_loss": finals}
    if charged is not None:
        found["charged"] = charged
    sentence = results.verdict(case, found, 25)
    assert said in sentence
    assert sentence.count("\n") == 0
    assert "only 2 seeds" in sentence


def test_differences_are_paired_by_seed_and_to_the_best_uniform() -> None:
    finals = {"uniform": [0.5, 0.7], "uniform_holdout": [0.6, 0.8]}
    assert results.best_of(finals, ("uniform", "uniform_holdout"), Metric()) == ("uniform_holdout")
    assert results.best_of(finals, tuple(finals), Metric("rmse", "min")) == "uniform"
    difference, error = results.paired([0.55, 0.65], finals["uniform"])
    assert (difference, error) == pytest.approx((0.0, 0.05))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "got both or none of --budget and --steps"),
        (("--steps", "10", "--budget", "3"), "got both or none of --budget and --steps"),
        (("--steps", "1.5"), "--steps: got '1.5', allowed whole numbers"),
        (("--steps", "10,x"), "--steps: got '10,x', allowed different numbers > 0"),
        (("--budget", "-1"), "--budget: got '-1', allowed different numbers > 0"),
        (("--steps", "10", "--rates", "1,1"), "--rates: got '1,1', allowed different numbers"),
        (("--steps", "10", "--cleaned", "1"), "--cleaned: got '1', allowed shares below 1"),
        (("--steps", "10", "--without", "uniform"), "--without: got uniform, allowed uniform_hol"),
        (("--steps", "10", "--validation", "0.0001"), "--validation: got 0.0001, which is 0 of"),
        (("--steps", "10", "--set", "selection.function=uniform"), "got uniform, which is an arm"),
        (
            ("--steps", "10", *(word for s in WALK for word in ("--set", s))),
            "got infobatch, which is an arm already; allowed one to compare with it",
        ),
        (("--steps", "10", "--set", "selection.function=svp"), "needs il.weights or svp.table"),
        (("--steps", "10", "--set", "selection.n_b=0"), "selection.n_b"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_comparison_is_one_line_before_anything_runs(
    tiny_config: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    result = rhoctl("compare", tiny_config, "--out", tmp_path / "out", *arguments)
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert said in result.err
    assert not (tmp_path / "out").exists()


def test_a_comparison_runs_resumes_and_says_what_it_left_out(
    tiny_config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "runs").mkdir(parents=True)
    clock = {"uniform_s": 0.01, "wide_s": 0.02, "selection_s": 0.02, "il_s": 0.5}
    machine = {"cpu": "slow", "cores": 1}
    (out / "reference-tiny.json").write_text(json.dumps({"machine": machine, "clock": clock}))
    command = ("compare", tiny_config, "--budget", "0.1", "--rates", "1,3", "--cleaned", "0.1,0.2")
    command = (*command, "--seeds", "2", "--without", "uniform_wide,uniform_holdout", "--out", out)
    planned = made(*command, "--dry-run").out
    assert "21 runs, 0.0 minutes of steps to go" in planned
    assert list((out / "runs").iterdir()) == []
    made(*command)
    found = json.loads((out / "results.json").read_text())
    steps = {row["arm"]: row["steps"] for row in found["rows"]}
    assert steps == {
        **dict.fromkeys(("uniform", "cleaned", "infobatch", "reducible_loss"), 10),
        "charged": 4,
    }
    assert found["reference_machines"] == {"tiny": machine}
    reason = "deduplicated: the train split has no exact duplicates"
    assert f"tiny-0.1s: without {reason}" in found["left_out"]
    assert imread(out / "figure.png").ndim == 3
    assert found["verdicts"][0] in (out / "table.md").read_text()
    run = out / "runs" / "tiny-0.1s-reducible_loss-1"
    assert len((run / "eval.jsonl").read_text().splitlines()) == 1, "the test split is read once"

    (run / "summary.json").unlink()  # as if it had been killed in its last step
    times = {p: p.stat().st_mtime_ns for p in (out / "runs").glob("*/summary.json")}
    made(*command)
    assert json.loads((out / "results.json").read_text())["rows"] == found["rows"]
    assert {p: p.stat().st_mtime_ns for p in times} == times
    assert made(*command, "--dry-run").out.count(": finished") == 21

    other = rhoctl(*command, "--set", "trainer.weight_decay=0.5")
    assert other.code == 2
    assert "another configuration (trainer.weight_decay)" in other.err
    small = rhoctl(*command[:2], "--budget", "0.001", "--out", out)
    assert (small.code, small.err.count("\n")) == (2, 1)
    assert "allowed at least one step, which takes 0.01 s" in small.err


@pytest.fixture
def measured(tiny_config: Path, tmp_path: Path) -> Path:
    """The folder of a comparison whose reference is measured."""
    reference = {"machine": {}, "clock": vars(CLOCK)}
    (tmp_path / "reference-tiny.json").write_text(json.dumps(reference))
    return tmp_path


def never(runs: Mapping[str, Config]) -> None:
    """A user who stops at the first run."""
    raise RunStopped("stopped at step 3; continue with: rhoctl train --resume")


def test_an_arm_that_has_nothing_to_do_is_left_out_with_its_reason(
    tiny_config: Path, measured: Path
) -> None:
    splits = patches()
    write_dataset(measured / "d", "image", {name: splits[name] for name in ("train", "test")})
    sets = [f"data.path={measured / 'd'}", "selection.function=loss"]
    text = tiny_config.read_text().replace("table =", "# table =")
    (measured / "tiny.toml").write_text(text)
    setting = Setting(measured / "tiny.toml", sets, RULES, measured)
    [case] = Comparison([setting], RULES, measured, never).cases()
    assert [arm.name for arm in case.arms] == [
        *("uniform", "uniform_wide", "infobatch", "loss", "charged")
    ]
    assert case.left_out["uniform_holdout"] == "the data set has no holdout"
    assert case.left_out["cleaned"] == "there is no il.table"
    assert {arm.name: arm.steps for arm in case.arms}["charged"] == 4  # 10 s, and no fit to pay


def test_irreducible_losses_that_cost_more_than_the_budget_leave_the_charged_arm_out(
    tiny_config: Path, measured: Path
) -> None:
    rules = replace(RULES, charged_runs=1)
    setting = Setting(tiny_config, [], rules, measured)
    [case] = Comparison([setting], rules, measured, never).cases()
    assert "charged" not in [arm.name for arm in case.arms]
    assert case.left_out["charged"].startswith("the irreducible losses (50 s, shared by 1 runs)")


def test_a_comparison_that_is_stopped_says_how_it_goes_on(
    tiny_config: Path, measured: Path
) -> None:
    setting = Setting(tiny_config, [], RULES, measured)
    with pytest.raises(RunStopped, match="stopped; the same command goes on"):
        run_all(Comparison([setting], RULES, measured, never), Console(quiet=True))


def test_points_that_are_not_in_a_folder_are_refused(tmp_path: Path) -> None:
    config = configuration.apply({"data": {"dataset": "module:points"}}, [])
    with pytest.raises(ConfigError, match=r"^data\.path: missing, .*rhoctl data import"):
        Source(config, 0.25, tmp_path)


def test_the_seconds_of_a_step_are_measured_once_and_kept_with_the_machine(
    tiny_config: Path, tmp_path: Path
) -> None:
    comparison = comparison_in([tiny_config], [], RULES, tmp_path, Console(quiet=True))
    comparison.runs.mkdir()
    [case] = comparison.cases()
    stored = json.loads((tmp_path / "reference-tiny.json").read_text())
    assert stored["machine"]["cores"] >= 1
    assert stored["clock"]["uniform_s"] == case.clock.uniform_s > 0
    shutil.rmtree(comparison.runs)
    assert comparison.cases()[0].clock == case.clock
