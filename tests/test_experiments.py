"""Experiments: their files, their tables on hand-made runs, and one small grid end to end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from rhoselect.config import Config, DataConfig
from rhoselect.data import ArrowDataset
from rhoselect.errors import ConfigError
from rhoselect.grids import document, figure, outcomes, table
from rhoselect.grids.grid import Cell, cells, find, load, names
from rhoselect.grids.recipes import Recipes
from rhoselect.grids.runner import check, settings
from rhoselect.grids.spec import Arm, Claim, Group
from rhoselect.importers import write_dataset
from rhoselect.trainer.records import Records, StepRecord
from rhoselect.trainer.runfolder import RunFolder
from support import made, patches, rhoctl

PAPER = Path(__file__).parent.parent / "benchmarks" / "paper"
TINY = """
title = "Tiny"
seeds = [0]
shortened = "Everything."

[data.points]
kind = "numpy"
src = "{src}"
options = {{ label_noise = 0.1 }}

[il.small]
model = "rhoselect.models:mlp"
set = {{ "model.args.width" = 16 }}
epochs = 1

[base]
"model.args.width" = 32
"selection.n_b" = 8
"selection.n_B" = 64
"selection.chunk" = 32
"scorer.precision" = "fp32"
"trainer.steps" = 20
"trainer.eval_every" = 5
"trainer.checkpoint_every" = 10

[[group]]
name = "noisy"
data = "points"
il = "small"
targets = [0.2, 1.01]

[[arm]]
name = "uniform"
set = {{ "selection.function" = "uniform" }}

[[arm]]
name = "rho"
set = {{ "selection.function" = "reducible_loss" }}

[paper]
shows = "Nothing."
setting = "None."
source = "nobody"

[[claim]]
text = "it ends"
group = "noisy"
arm = "rho"
measure = "final_accuracy"
at_least = 0.0
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """An experiment of two runs of 20 steps on a file of synthetic points."""
    splits = patches()
    arrays = {f"x_{name}": inputs for name, (inputs, _) in splits.items()}
    arrays |= {f"y_{name}": labels for name, (_, labels) in splits.items()}
    np.savez(tmp_path / "points.npz", **arrays)
    path = tmp_path / "tiny.toml"
    path.write_text(TINY.format(src=tmp_path / "points.npz"))
    return path


def test_every_table_and_figure_of_the_paper_has_its_experiment() -> None:
    found = names(PAPER)
    for item in [*(f"table{n}_" for n in range(1, 5)), *(f"fig{n}_" for n in range(1, 10))]:
        assert sum(name.startswith(item) for name in found) == 1, item


@pytest.mark.parametrize("name", names(PAPER))
def test_every_run_of_an_experiment_of_the_paper_can_be_configured(
    name: str, tmp_path: Path
) -> None:
    spec = load(find(name, PAPER))
    grid = cells(spec, spec.seeds)
    assert len(spec.seeds) >= 3
    assert len({cell.name for cell in grid}) == len(grid)
    check(grid, Recipes(spec, tmp_path), [])
    assert list(tmp_path.iterdir()) == []
    assert "memory" not in spec.paper.source


def test_the_page_of_the_paper_is_that_of_its_files_and_results(tmp_path: Path) -> None:
    results = PAPER.parent.parent / "docs" / "results"
    for name in names(PAPER):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        shutil.copy(results / "paper" / f"{name}.json", folder / "results.json")
        shutil.copy(results / "paper" / f"{name}.png", folder / "figure.png")
    document.page(PAPER, tmp_path / "runs", tmp_path / "paper.md")
    assert (tmp_path / "paper.md").read_text() == (results / "paper.md").read_text()


def test_a_later_key_wins_and_every_arm_sees_the_same_seed(tiny: Path, tmp_path: Path) -> None:
    text = tiny.read_text().replace("targets = [0.2, 1.01]", 'set = { "trainer.lr" = 0.5 }')
    text = text.replace('"reducible_loss" }', '"reducible_loss", "trainer.lr" = 0.25 }')
    tiny.write_text(text)
    spec = load(tiny)
    grid = cells(spec, [3, 4])
    recipes = Recipes(spec, tmp_path)
    found = [settings(cell, recipes, ["trainer.steps=7"]) for cell in grid]
    assert [cell.name for cell in grid[:2]] == ["noisy-uniform-3", "noisy-rho-3"]
    assert [config.trainer.lr for config in found] == [0.5, 0.25, 0.5, 0.25]
    assert [config.seed for config in found] == [3, 3, 4, 4]
    assert {config.trainer.steps for config in found} == {7}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('title = "Tiny"', 'titel = "Tiny"', "title: missing"),
        ('il = "small"', 'il = "large"', "noisy: il: got 'large', allowed small"),
        ("[[claim]]\ntext", '[[claim]]\nof = "x"\ntext', "claim: of: got 'x'"),
        ("at_least = 0.0", "", "claim: set exactly one of at_least and at_most"),
        ('name = "rho"', 'name = "uniform"', "arm: got uniform, uniform"),
        ("label_noise", "lable_noise", "data.points: options: got lable_noise, allowed ambiguous"),
        ("label_noise = 0.1", "label_noise = 1.1", "data.points: label noise: got 1.1, allowed"),
        ("label_noise = 0.1", 'label_noise = "few"', "data.points: label_noise: got 'few'"),
        ("epochs = 1", "epochs = 0", "il.small.epochs: got 0; input should be greater than"),
        ('"model.args.width" = 16', '"trainer.lrr" = 1', "il.small: trainer.lrr: unknown key"),
        ('"reducible_loss"', '"rho_loss"', "selection.function: got 'rho_loss'"),
        ('"selection.n_b" = 8', '"selection.nb" = 8', "selection.nb: unknown key"),
        ("points.npz", "nowhere.npz", "nowhere.npz: no such file or folder"),
        ("seeds = [0]", "seeds = []", "its grid is empty (0 seeds"),
        ('il = "small"', "", "arm rho: il: missing"),
        ("[base]", "[base", "cannot be read as TOML"),
    ],
)
def test_a_wrong_experiment_is_one_line_before_anything_runs(
    tiny: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    text = tiny.read_text()
    assert old in text
    tiny.write_text(text.replace(old, new))
    result = rhoctl("experiment", "run", tiny, "--out", tmp_path / "out")
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert said in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "tabel2", "--specs", PAPER), "got 'tabel2', allowed a .toml file or one of"),
        (("run", "table2", "--specs", PAPER, "--seeds", "0,x"), "--seeds: got '0,x'"),
        (("run", "table2", "--specs", PAPER, "--seeds", ""), "its grid is empty"),
        (("run", "table2", "--specs", PAPER, "--data", "nowhere"), "nowhere: no such file"),
        (("list", "--specs", "nowhere"), "--specs nowhere: no such folder; allowed"),
        (("run", "table2", "--specs", "nowhere"), "--specs nowhere: no such folder; allowed"),
        (("report", "--specs", PAPER, "--runs", "nowhere"), "has no results.json"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: Sequence[Any], said: str) -> None:
    result = rhoctl("experiment", *arguments)
    assert (result.code, result.err.count("\n")) == (2, 1), result.err
    assert said in result.err


def finished(
    path: Path,
    figures: Sequence[float],
    corrupted: Sequence[float | None],
    indices: Sequence[list[int]] | None = None,
    metric: str = "accuracy",
) -> None:
    """A run folder with an evaluation and a row a step; a point is correct from step 2 on."""
    folder = RunFolder.create(path, Config(data=DataConfig(path="data")))
    records = Records(folder, 0)
    for step, share in enumerate(corrupted):
        chosen = np.array(indices[step] if indices else [step], np.int64)
        correct = float(step >= 2)
        records.append(StepRecord(step, step, chosen, [0.0], 1.0, 0, 8, 0.1, 0.1, share, correct))
    records.flush()
    for step, value in enumerate(figures):
        classes = {"worst_class_accuracy": value / 2} if metric == "accuracy" else {}
        records.add_values(step + 1, 1.0, {metric: value, "loss": 1.0, **classes})
    about = {} if metric == "accuracy" else {"metric": metric, "metric_direction": "min"}
    records.finish({"method": path.name, "wall_seconds": 2.0, **about})


def outcome(path: Path, arm: str, seed: int, data: Path) -> outcomes.Outcome:
    cell = Cell(Group(name="g", data="d"), Arm(name=arm), seed, "d", None, {})
    return outcomes.load(cell, path, data)


def test_the_table_by_hand(tiny: Path, tmp_path: Path) -> None:
    # Smoothed: uniform .15 .3 .45 .45, rho .45 .6 .8 .8; seed 1's rho never leaves .1.
    for seed in (0, 1):
        finished(tmp_path / f"uniform-{seed}", [0.1, 0.2, 0.6, 0.55], [0.1, 0.1, 0.1, 0.1])
    finished(tmp_path / "rho-0", [0.4, 0.5, 0.9, 0.7], [0.5, None, 0.0, 0.25])
    finished(tmp_path / "rho-1", [0.1, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1])
    text = tiny.read_text().replace('"noisy"', '"g"').replace("[0.2, 1.01]", "[0.3, 0.8]")
    tiny.write_text(text)
    spec = load(tiny)
    data = tmp_path / "data"
    images = np.zeros((8, 1, 4, 4), np.uint8), np.arange(8) % 2
    write_dataset(data, "image", {"train": images, "test": images})
    runs = [
        outcome(tmp_path / f"{arm}-{seed}", arm, seed, data)
        for seed in (0, 1)
        for arm in ("uniform", "rho")
    ]
    uniform, rho = table.rows(spec, runs)
    assert (uniform["group"], uniform["arm"], rho["arm"]) == ("g", "uniform", "rho")
    assert uniform["targets"]["0.3"]["values"] == [2, 2]
    assert uniform["targets"]["0.8"]["median"] is None
    best = uniform["best_accuracy"]["median"]
    assert best == pytest.approx(0.575)  # of the last two
    assert uniform["speedup"]["median"] == 1
    assert rho["targets"]["0.3"] == {"median": None, "low": 1, "high": None, "values": [1, None]}
    assert rho["speedup"]["values"] == [4 / 2, 0]  # .6 at step 2 against .575 at step 4
    assert rho["final_accuracy"]["values"] == pytest.approx([0.7, 0.1])
    assert rho["worst_class_accuracy"]["values"] == pytest.approx([0.35, 0.05])
    assert rho["corrupted_share"]["values"] == pytest.approx([0.25, 0.1]), "zeros count, None not"
    assert rho["corrupted_share_late"]["values"] == pytest.approx([0.25, 0.1])
    # Seed 0: uniform ends lowest, at .45, which rho has at step 1 and uniform at step 3.
    assert rho["correct_share_below"]["values"][0] == 0
    assert uniform["correct_share_below"]["values"][0] == pytest.approx(1 / 3, abs=1e-9)
    heads, (first, second) = table.cells_of([uniform, rho])
    assert first[heads.index("steps to 0.8")] == "NR"
    assert second[heads.index("steps to 0.3")] == "NR (1 of 2)"
    assert json.loads(json.dumps(rho)) == rho


def test_a_task_of_another_metric_has_its_name_and_its_direction(
    tiny: Path, tmp_path: Path
) -> None:
    # Smoothed: uniform 6.5 5.67 4.33 4, loss 4.5 3.67 2.33 2; the least is best.
    finished(tmp_path / "uniform-0", [8, 5, 4, 4], [None] * 4, metric="perplexity")
    finished(tmp_path / "rho-0", [6, 3, 2, 2], [None] * 4, metric="perplexity")
    text = tiny.read_text().replace('"noisy"', '"g"').replace("[0.2, 1.01]", "[4.4]")
    tiny.write_text(text.replace('"final_accuracy"', '"final_metric"'))
    spec, data = load(tiny), tmp_path / "data"
    images = np.zeros((8, 1, 4, 4), np.uint8), np.arange(8) % 2
    write_dataset(data, "image", {"train": images, "test": images})
    runs = [outcome(tmp_path / f"{arm}-0", arm, 0, data) for arm in ("uniform", "rho")]
    uniform, rho = table.rows(spec, runs)
    assert uniform["targets"]["4.4"]["values"] == [3] and rho["targets"]["4.4"]["values"] == [2]
    assert rho["best_perplexity"]["median"] == 2 and rho["final_metric"] == rho["final_perplexity"]
    assert rho["speedup"]["values"] == [4 / 2]
    assert table.verdict(spec.claim[0], [uniform, rho]) == (pytest.approx(7 / 3), "agrees")
    heads, (_, cells_of_rho) = table.cells_of([uniform, rho])
    assert cells_of_rho[heads.index("final perplexity")] == "2.333"
    assert "worst class" not in heads and json.dumps(rho, allow_nan=False)
    axes, lines = Figure().add_subplot(), figure.curves(spec, runs)
    figure.panel("g", "", [uniform, rho], lines, axes)
    assert axes.get_ylabel() == "test perplexity"


def test_verdicts_follow_the_measured_medians() -> None:
    rows = [
        {"group": "g", "arm": arm, "speedup": table.statistic(values)}
        for arm, values in (("a", [1.0, 3.0, 4.0]), ("b", [6.0]))
    ]

    def said(arm: str, **bound: Any) -> tuple[float | None, str]:
        return table.verdict(Claim(text="", group="g", arm=arm, measure="speedup", **bound), rows)

    assert said("a", at_least=3.0) == (3.0, "agrees")
    assert said("a", at_most=2.9) == (3.0, "disagrees")
    assert said("b", of="a", at_least=2.5) == (2.0, "disagrees")
    assert said("b", of="a", at_most=2.0) == (2.0, "agrees")
    assert said("c", at_least=0.0) == (None, "not measured")


def test_relevance_and_repeats_are_those_of_the_manifest(tmp_path: Path) -> None:
    images = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1).repeat(4, axis=2).repeat(4, axis=3)
    split = images, np.array([0, 1, 2, 2, 0, 1, 2, 2])
    splits = {"train": split, "test": split}
    write_dataset(tmp_path / "mixed", "image", splits, relevance=(1, 1.0), duplicates=2)
    write_dataset(tmp_path / "plain", "image", splits)
    train = ArrowDataset.open(tmp_path / "mixed").split("train")
    copies = {
        int(original): 8 + row for row, original in enumerate(train.originals(np.arange(8, 16)))
    }
    picked = [[0, 1], [copies[0], 2], [0, 3]]
    finished(tmp_path / "run", [0.5], [0.0, 0.0, 0.0], picked)
    found = outcome(tmp_path / "run", "a", 0, tmp_path / "mixed").properties(0.0)
    assert found["repeat_share"] == pytest.approx(2 / 6)
    relevant = train.relevant(np.concatenate(picked))
    assert relevant is not None
    assert found["relevant_share"] == pytest.approx(relevant.mean())
    found = outcome(tmp_path / "run", "a", 0, tmp_path / "plain").properties(0.0)
    assert found["repeat_share"] == pytest.approx(1 / 6)
    assert found["relevant_share"] is None


def test_a_grid_runs_resumes_and_is_reported(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("experiment", "run", tiny, "--out", out)
    assert "2 runs; all configurations are valid" in made(*command, "--dry-run").out
    assert not out.exists()
    said = made(*command)
    assert "NR" in said.out
    folder = out / "tiny"
    results = json.loads((folder / "results.json").read_text())
    assert [row["arm"] for row in results["rows"]] == ["uniform", "rho"]
    assert [line["steps"] for line in results["curves"]] == [[5, 10, 15, 20]] * 2
    assert results["rows"][1]["targets"]["1.01"]["median"] is None
    assert imread(folder / "figure.png").ndim == 3
    assert len(list((out / "data").iterdir())) == len(list((out / "il").glob("*.parquet"))) == 1

    again = rhoctl(*command)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "--resume" in again.err

    # One run is finished, the other was killed after its first checkpoint.
    rho, uniform = folder / "runs" / "noisy-rho-0", folder / "runs" / "noisy-uniform-0"
    before = json.loads((rho / "summary.json").read_text())
    kept = (uniform / "summary.json").stat().st_mtime_ns
    for gone in ("summary.json", "steps.parquet", "steps/part-000000020-1.parquet"):
        (rho / gone).unlink()
    for gone in (rho / "checkpoints").glob("*20.safetensors"):
        gone.unlink()
    made(*command, "--resume")
    after = json.loads((rho / "summary.json").read_text())
    for key in ("weights_sha256", "selected_sha256", "steps"):
        assert after[key] == before[key]
    assert len(list((rho / "generations").iterdir())) == 2
    assert (uniform / "summary.json").stat().st_mtime_ns == kept

    changed = rhoctl(*command, "--resume", "--set", "trainer.lr=0.5")
    assert changed.code == 2
    assert "another configuration (trainer.lr)" in changed.err

    page = tmp_path / "docs" / "paper.md"
    made("experiment", "report", "--specs", tiny.parent, "--runs", out, "--out", page)
    text = page.read_text()
    assert "| it ends | >= 0 |" in text
    assert "agrees" in text
    assert (page.parent / "paper" / "tiny.png").is_file()


def test_an_unknown_claim_measure_is_refused(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace('"final_accuracy"', '"beauty"'))
    with pytest.raises(ConfigError, match=r"claim\.0\.measure"):
        load(tiny)


def test_the_document_of_a_spec_without_results_says_so() -> None:
    spec = load(find("table2", PAPER))
    text = document.section("table2_speedup", spec, None, "x.png")
    assert "Not run yet." in text
    assert "not measured" in text
    assert "Clothing-1M" in text
