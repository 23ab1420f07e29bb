"""Runs side by side: who reaches the uniform run's best accuracy, when, and how much sooner."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.image import imread
from rich.console import Console

from browser import opened
from rhoselect.config import Config, DataConfig, load
from rhoselect.errors import RunFolderError
from rhoselect.inputs import open_inputs
from rhoselect.report.arms import arms_of, differences
from rhoselect.report.chart import ticks
from rhoselect.report.comparison import WIDTH, coarse, comparison, table, uncounted
from rhoselect.report.coverage import coverage_of
from rhoselect.report.curves import metric_chart
from rhoselect.report.examples import examples_of
from rhoselect.report.history import past_of
from rhoselect.report.page import page, write_page
from rhoselect.report.plots import figure
from rhoselect.report.runs import Run, Selected, load_run
from rhoselect.report.verdict import outcomes
from rhoselect.trainer.records import Records, StepRecord
from rhoselect.trainer.runfolder import RunFolder
from support import made, rhoctl

SETTINGS = {
    "data.path": '"data/fm"',
    "model.factory": '"rhoselect.models:mlp"',
    "selection.n_b": "32",
    "selection.n_B": "320",
    "trainer.optimizer.name": '"SGD"',
    "trainer.lr": "0.001",
    "trainer.steps": "3000",
    "trainer.schedule": '"cosine"',
    "scorer.precision": '"bf16"',
}


def run(
    method: str, accuracy: list[float], every: int = 100, corrupted_share: float | None = 0.1
) -> Run:
    """A run with an evaluation each ``every`` steps, which take ``every`` / 50 seconds, draw 320
    ``every`` candidates and cost 3000 ``every`` FLOPs."""
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
        "proxy_seconds": 0.5,
        "flops": {"train": 3e6, "score": 6e6, "il": 4e5, "proxy": 1e5},
    }
    shares = np.full(3000, np.nan if corrupted_share is None else corrupted_share)
    selected = Selected(np.arange(3000), np.arange(3000), shares, np.full(3000, 0.25))
    measured = np.array(accuracy)
    worst = measured / 2
    return Run(
        f"my-{method}",
        summary,
        steps,
        steps / 50,
        320 * steps,
        measured,
        worst,
        selected,
        {"selection.function": f'"{method}"', **SETTINGS},
        class_accuracy=[measured[-1], None, measured[-1] / 2],
    )


def seed(of: Run, number: int, faster: float = 1.0) -> Run:
    """The same run with another seed, whose evaluations come at other times."""
    summary = of.summary | {"seed": number}
    settings = {**of.settings, "seed": str(number)}
    return replace(
        of, name=f"{of.name}-seed{number}", summary=summary, settings=settings,
        seconds=of.seconds / faster,
    )  # fmt: skip


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
    assert (uniform["candidates_to_target"], uniform["flops_to_target"]) == (128_000, 1.2e6)
    assert (uniform["prior_seconds"], uniform["prior_flops"]) == (3.5, 5e5)
    assert uniform["step_speedup"] == 1
    assert (rho["steps_to_target"], rho["seconds_to_target"]) == (150, 3.0)
    assert rho["step_speedup"] == pytest.approx(400 / 150)
    assert slow["steps_to_target"] is None
    assert slow["seconds_to_target"] is None
    assert slow["step_speedup"] is None
    assert slow["flops_to_target"] is None
    assert (rho["run"], rho["workers"], rho["il_seconds"]) == ("my-reducible_loss", 2, 3.0)
    assert (rho["best_accuracy"], rho["final_accuracy"]) == (0.9, 0.8)
    assert rho["worst_class_accuracy"] == 0.4
    assert (rho["corrupted_share"], slow["corrupted_share"]) == (pytest.approx(0.1), None)
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
    assert max(map(len, text.splitlines())) <= WIDTH
    uniform, rho, slow = (
        next(line for line in text.splitlines() if f"my-{method} " in line)
        for method in ("uniform", "reducible_loss", "loss")
    )
    assert "never" not in uniform + rho
    cells = [" ".join(line.split()[3:]) for line in (uniform, rho, slow)]
    assert cells[0] == "0.7000 0.4000 400 1.0x 8.0 11.5 1.0x 10.0%"
    # 3 s of the run and 3.5 s before it, against 8 + 3.5 s.
    assert cells[1] == "0.9000 0.8000 150 2.7x 3.0 6.5 1.8x 10.0%"
    assert cells[2] == "0.9000 0.1000 never never never never never not known"


def test_time_before_a_run_can_make_it_later_than_the_uniform_one() -> None:
    """7.1 times fewer steps may be more seconds."""
    costly = replace(RHO, summary=RHO.summary | {"il_seconds": 30.0})
    [_, row] = comparison([UNIFORM, costly])
    assert row["step_speedup"] > 2
    assert row["time_speedup"] == pytest.approx(11.5 / 33.5)
    headline = Page(page([UNIFORM, costly])).headings[0]
    assert "2.7 times fewer steps, but 2.9 times later" in headline


def test_seeds_of_an_arm_are_one_row_with_their_spread() -> None:
    runs = [seed(UNIFORM, 0), seed(RHO, 0), seed(UNIFORM, 1), seed(RHO, 1, faster=2.0)]
    rows = comparison(runs)
    assert len(rows) == 4, "one a run, for --json"
    names = ["my-uniform (2 seeds)", "my-reducible_loss (2 seeds)"]
    assert [row["arm"] for row in rows] == [*names, *names]
    console = Console(file=io.StringIO(), width=WIDTH)
    console.print(table(rows))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    [at] = [place for place, line in enumerate(lines) if "my-reducible_loss (2" in line]
    # 3 s and 1.5 s: 2.2 on average, with a standard deviation of 1.1.
    assert "2.2" in lines[at] and "±1.1" in lines[at + 1]
    shown = Page(page(runs))
    assert len(shown.headings) > 2
    assert any("2.2 s ± 1.1 s instead of 8.0 s ± 0.0 s" in text for text in shown.texts)
    assert shown.legends[0] == names


def test_a_mean_over_the_seeds_that_reach_the_target_is_not_shown() -> None:
    runs = [UNIFORM, seed(RHO, 0), seed(replace(RHO, figures=RHO.figures / 2), 1)]
    console = Console(file=io.StringIO(), width=WIDTH)
    console.print(table(comparison(runs)))
    assert isinstance(console.file, io.StringIO)
    assert "1 of 2" in console.file.getvalue()
    assert any("reaches in 1 of 2 seeds 60.0%" in text for text in Page(page(runs)).texts)


def test_arms_of_several_seeds_have_different_names() -> None:
    fast = replace(RHO, settings={**RHO.settings, "trainer.lr": "0.01"})
    arms = arms_of([seed(RHO, 0), seed(RHO, 1), seed(fast, 2), seed(fast, 3)])
    name = "my-reducible_loss"
    assert [arm.name for arm in arms] == [f"{name}-seed{n} and 1 more seeds" for n in (0, 2)]


def test_two_runs_of_one_seed_tell_of_no_spread() -> None:
    assert [arm.name for arm in arms_of([RHO, replace(RHO, name="again")])] == [RHO.name, "again"]


def test_runs_of_other_irreducible_losses_are_other_arms() -> None:
    wide = replace(seed(RHO, 1), inputs_sha256="other")
    assert len(arms_of([seed(RHO, 0), wide])) == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.path", '"data/other"'),
        ("model.factory", '"rhoselect.models:small_cnn"'),
        ("model.args.width", "64"),
        ("model.weights", '"first.safetensors"'),
        ("augment.flip", "true"),
        ("selection.n_b", "64"),
        ("selection.n_B", "640"),
        ("trainer.lr", "0.0003"),
        ("trainer.steps", "100"),
        ("trainer.weight_decay", "0.1"),
    ],
)
def test_a_difference_beside_the_selection_is_named(key: str, value: str) -> None:
    other = replace(RHO, settings={**RHO.settings, key: value})
    [line] = differences(arms_of([UNIFORM, other]))
    assert line.startswith(f"{key}: ")
    assert value in line and UNIFORM.name in line and RHO.name in line
    assert line in Page(page([UNIFORM, other])).warnings[0]
    assert differences(arms_of([UNIFORM, RHO])) == []


def test_settings_that_a_loop_of_the_user_s_does_not_obey_are_not_shown_as_its_own() -> None:
    """Its optimizer is its own; and its model, if it gave the points."""
    own = {**RHO.settings, "trainer.lr": "0.5"}
    given = {**own, "data.dataset": '"given:data"', "model.factory": '"m:other"'}
    del given["data.path"]
    served, local = (
        replace(RHO, name=name, kind=name, settings=settings, summary=RHO.summary | {"steps": 7})
        for name, settings in (("served", own), ("local", given))
    )
    lines = differences(arms_of([UNIFORM, served]))
    assert lines == ["optimizer: the configuration's (my-uniform); a loop's (served)"]
    assert differences(arms_of([served])) == []
    summary = local.summary | {"data_fingerprint": ""}
    known = replace(UNIFORM, summary=UNIFORM.summary | {"data_fingerprint": "f" * 64})
    assert differences(arms_of([known, replace(local, summary=summary)])) == [
        "model: the configuration's (my-uniform); a loop's (local)",
        "optimizer: the configuration's (my-uniform); a loop's (local)",
        "data (content): ffffffffffff (my-uniform); not known (local)",
    ]
    texts = Page(page([local])).texts
    facts = dict(pairwise(texts))
    assert facts["Data"] == "given by the loop"
    own_keys = ("Model", "Optimizer", "Learning rate", "Schedule")
    assert [facts[name] for name in own_keys] == ["the loop's own"] * 4
    assert dict(pairwise(Page(page([RHO])).texts))["Optimizer"] == "SGD"
    assert facts["Steps"] == "7"
    assert len(arms_of([seed(RHO, 0), seed(served, 1)])) == 2


def test_seconds_that_no_folder_tells_are_named() -> None:
    """A loop that gives irreducible losses as numbers does not say how long they took."""
    settings = {**RHO.settings, "data.dataset": '"given:data"'}
    given = replace(RHO, kind="local", settings=settings, summary=RHO.summary | {"il_seconds": 0.0})
    line = (
        "my-reducible_loss: its irreducible losses were given by its loop; the seconds to make them"
        " are not known and not counted"
    )
    assert uncounted(arms_of([UNIFORM, given])) == [line]
    assert [line] in Page(page([UNIFORM, given])).warnings
    table = replace(given, summary=RHO.summary)
    plain = replace(given, summary=given.summary | {"method": "loss"})
    foreign = replace(given, summary=given.summary | {"method": "nowhere:Loss"})
    assert uncounted(arms_of([UNIFORM, RHO])) == []
    assert [uncounted(arms_of([run])) for run in (table, plain, foreign)] == [[], [], []]


def test_a_path_that_moved_is_of_no_use_to_runs_without_one(folder: Path, tmp_path: Path) -> None:
    """Such a run has a data.dataset, which stays where it is."""
    without = Path(shutil.copytree(folder, tmp_path / "module"))
    config = without / "config.toml"
    config.write_text(config.read_text().replace('path = "data"', 'dataset = "given:data"'))
    out, moved = tmp_path / "page.html", "data.path=/new"
    made("report", folder, without, "--out", out, "--set", moved)
    assert Page(out.read_text()).headings[0]
    refused = rhoctl("report", without, folder, "--out", out, "--set", "trainer.lr=1.0")
    assert refused.code == 2
    assert f"run folder {without}: --set: got trainer.lr" in refused.err


@pytest.mark.parametrize("text", [b"leased", b"", b"\xff\xfe"], ids=["unknown", "none", "bytes"])
def test_a_kind_that_is_not_known_is_refused(folder: Path, text: bytes) -> None:
    (folder / "kind").write_bytes(b"local\n")
    assert load_run(folder).kind == "local"
    (folder / "kind").write_bytes(text)
    with pytest.raises(RunFolderError, match=r"/kind: got .*, allowed trained, served, local$"):
        load_run(folder)


def test_a_page_of_little_has_no_empty_parts() -> None:
    """One evaluation is a dot, as it makes no line; a table without rows is left out."""
    once = replace(run("loss", [0.5], corrupted_share=None), class_accuracy=None)
    unknown = np.full(3000, np.nan)
    selected = replace(once.selected, corrupted=unknown, correct=unknown)
    text = page([replace(once, selected=selected)])
    assert "class='dot" in text
    assert "<tbody></tbody>" not in text and "<div class=charts></div>" not in text
    shown = Page(text)
    assert all(len(rows) > 1 for rows in shown.tables)
    assert shown.headings[1:] == ["Cost"]
    beside = Page(page([UNIFORM, replace(once, selected=selected)]))
    assert beside.legends[0] == ["my-uniform", "my-loss"]
    assert beside.legends[-1] == ["my-uniform"], "which alone has a curve there"


def test_data_are_compared_by_content_where_it_is_known() -> None:
    def on(of: Run, path: str, fingerprint: str) -> Run:
        settings = {**of.settings, "data.path": json.dumps(path)}
        return replace(
            of, settings=settings, summary=of.summary | {"data_fingerprint": fingerprint}
        )

    moved = [on(UNIFORM, "data/fm", "f" * 64), on(RHO, "/home/me/fm", "f" * 64)]
    assert differences(arms_of(moved)) == []
    changed = [on(UNIFORM, "data/fm", "f" * 64), on(RHO, "data/fm", "0" * 64)]
    [line] = differences(arms_of(changed))
    assert line == f"data (content): ffffffffffff ({UNIFORM.name}); 000000000000 ({RHO.name})"


def test_settings_of_the_selection_and_of_servers_are_no_difference() -> None:
    keys = {"selection.lag": "1", "il.table": '"il"', "queue.url": '"redis://x"', "seed": "7"}
    keys |= {"trainer.scores": "false", "trainer.checkpoint_every": "7"}
    other = replace(RHO, settings={**RHO.settings, **keys})
    assert differences(arms_of([UNIFORM, other])) == []


def test_the_command_names_differences_and_tells_folders_of_one_name_apart(
    mixed_run: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(mixed_run, tmp_path / mixed_run.name))
    config = other / "config.toml"
    config.write_text(config.read_text().replace("lr = 0.003", "lr = 0.03"))
    out = made("report", mixed_run, other).out
    assert f"not alike: trainer.lr: 0.003 ({mixed_run}); 0.03 ({other})" in out.splitlines()


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
    records.add_values(2, 0.5, {"accuracy": 0.4, "loss": 1.0, "worst_class_accuracy": 0.1})
    records.add_values(4, 1.5, {"accuracy": 0.6, "loss": 1.0, "worst_class_accuracy": 0.1})
    records.finish(run("uniform", [0.4, 0.6]).summary | {"note": "<script>"})
    return made.path


def test_a_run_is_read_back_from_its_folder(folder: Path) -> None:
    found = load_run(folder)
    assert found.name == "<b>run"
    assert found.steps.tolist() == [2, 4]
    assert found.seconds.tolist() == [0.5, 1.5]
    assert found.figures.tolist() == [0.4, 0.6]
    assert found.corrupted_share == 0.25, "the mean over the steps where it is known"
    assert found.summary["method"] == "uniform"


def test_a_run_that_is_not_finished_is_told_how_to_finish(folder: Path) -> None:
    (folder / "summary.json").unlink()
    with pytest.raises(RunFolderError, match="--resume --run-dir"):
        load_run(folder)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", r"has no accuracy in eval\.jsonl"),
        ('{"step": 2, "seconds": 1, "accuracy": NaN}\n', r"cannot be read: .*eval\.jsonl"),
    ],
    ids=["none", "NaN"],
)
def test_a_run_without_readable_accuracies_is_refused(folder: Path, lines: str, words: str) -> None:
    (folder / "eval.jsonl").write_text(lines)
    with pytest.raises(RunFolderError, match=words):
        load_run(folder)


class Page(HTMLParser):
    """What a page shows: its headings, cells of its tables, warnings, legends, texts, pictures, and
    whatever would be fetched or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.warnings: list[list[str]] = []
        self.legends: list[list[str]] = []
        self.texts: list[str] = []
        self.pictures: list[bytes] = []
        self.foreign: list[str] = []
        self._lists: list[list[str]] = []
        self._in: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        source = given.get("src") or given.get("href") or ""
        kind, _, data = source.partition(";base64,")
        if kind == "data:image/png":
            self.pictures.append(base64.b64decode(data))
        elif source or tag in ("script", "link"):
            self.foreign.append(f"{tag} {source}")
        if tag in ("h1", "h2", "h3"):
            self.headings.append("")
        if given.get("class") == "warning":
            self.warnings.append([])
            self._lists = self.warnings
        if given.get("class") == "legend":
            self.legends.append([])
            self._lists = self.legends
        if tag == "li" and self._lists:
            self._lists[-1].append("")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")
        self._in.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._in and self._in.pop() != tag:
            pass
        if tag == "ul":
            self._lists = []

    def handle_data(self, data: str) -> None:
        inside = self._in[-1] if self._in else ""
        if inside != "style":
            self.texts.append(data)
        if inside in ("h1", "h2", "h3"):
            self.headings[-1] += data
        if inside == "li" and self._lists:
            self._lists[-1][-1] += data
        if inside in ("th", "td"):
            self.tables[-1][-1][-1] += data

    def rows(self, first: str) -> dict[str, list[str]]:
        """The rows of the table whose head begins with ``first``, by their first cells."""
        found = next(rows for rows in self.tables if rows[0][0].startswith(first))
        return {row[0]: row[1:] for row in found}


def test_a_page_needs_nothing_else_and_shows_names_as_they_are(folder: Path) -> None:
    write_page(folder)
    shown = Page((folder / "report.html").read_text())
    assert shown.foreign == []
    assert shown.headings[0].startswith("<b>run: 60.0% test accuracy")


def test_a_page_begins_with_its_verdict_and_rounds_its_numbers() -> None:
    third = replace(RHO, figures=RHO.figures - 1 / 30, seconds=RHO.seconds / 3)
    text = page([third, UNIFORM])
    shown = Page(text)
    assert shown.headings[0] == (
        "my-reducible_loss reaches my-uniform's best accuracy in 2.7 times fewer steps, and 2.6"
        " times sooner, preparation counted"
    )
    sentence = next(text for text in shown.texts if "optimizer steps instead of" in text)
    assert sentence == (
        "my-reducible_loss: reaches 60.0%, which my-uniform reaches, in 150 optimizer steps instead"
        " of 400, in 1.0 s instead of 8.0 s, or 4.5 s with what its irreducible losses (or proxy"
        " model) took before, which runs can share. Final accuracy 80.0% against 40.0%."
    )
    order = [text.index(part) for part in (sentence, "Learning rate", "<svg", "Cost", "Classes")]
    assert order == sorted(order)
    assert not re.search(r"\d\.\d{5}", "".join(shown.texts)), "more digits than a reader needs"
    assert "{" not in "".join(shown.texts), "JSON"


def test_the_page_compares_runs_in_steps_candidates_seconds_and_flops() -> None:
    shown = Page(page([UNIFORM, RHO, SLOW]))
    cost = shown.rows("to 60.0%")
    assert cost["steps"] == ["400", "150", "never"]
    assert cost["candidates drawn"] == ["128,000", "48,000", "never"]
    assert cost["FLOPs of the run"] == ["1.2 MFLOP", "450 kFLOP", "never"]
    assert cost["FLOPs before it"] == ["500 kFLOP"] * 3
    assert "my-reducible_loss: 6.5 s to 60.0%" in shown.texts
    assert "my-loss: 11 s in all, target not reached" in shown.texts
    classes = shown.rows("class")
    assert classes["0"] == ["40.0%", "80.0%", "10.0%"]
    assert classes["1"] == ["-"] * 3
    assert classes["2"] == ["20.0%", "40.0%", "5.0%"]


def test_a_target_reached_within_few_evaluations_is_said_to_be_coarse() -> None:
    fine = run("loss", [0.1] * 8 + [0.9] * 8, every=10)
    first = run("uniform", [0.9, 0.9, 0.9])
    assert coarse(arms_of([fine, UNIFORM])) == [
        "my-uniform: reaches the target at evaluation 4, between steps 300 and 400; evaluate more"
        " often (trainer.eval_every) to know it better"
    ]
    [line] = coarse(arms_of([first, fine]))
    assert line.startswith(
        "my-uniform: reaches the target at evaluation 1, between steps 0 and 100;"
    )
    assert coarse(arms_of([first])) == []
    assert any("at evaluation 1, between" in text for text in Page(page([first, fine])).texts)


def test_an_arm_that_does_not_reach_the_target_is_said_so() -> None:
    shown = Page(page([UNIFORM, SLOW]))
    assert shown.headings[0] == "my-loss does not reach my-uniform's best accuracy"
    assert any("reaches never 60.0%" in text or "never reaches" in text for text in shown.texts)


def test_many_classes_are_those_of_least_accuracy() -> None:
    many = replace(RHO, class_accuracy=[k / 100 for k in range(100)][::-1])
    classes = Page(page([many])).rows("class")
    assert list(classes)[1:] == [str(k) for k in range(99, 79, -1)]


def test_shares_count_zeros_and_steps_before_the_weakest_runs_final_accuracy() -> None:
    """The weakest ends at 0.5; this run is there after 2 of 4 steps."""
    weak = run("uniform", [0.5, 0.5, 0.5])
    corrupted, correct = np.array([0.0, 0.0, 0.4, np.nan]), np.array([0.1, 0.3, 0.9, 0.9])
    selected = Selected(np.arange(4), np.arange(4), corrupted, correct)
    strong = replace(run("loss", [0.3, 0.5, 0.9, 0.9], every=1), selected=selected)
    rows = Page(page([weak, strong])).rows("share of the points")
    assert rows["with a wrong label"][1] == "13.3%"
    assert rows["classified correctly before"][1] == "55.0%"
    assert rows["… until accuracy 50.0%"][1] == "20.0%"
    assert "selected before" not in rows


def test_a_chart_has_round_ticks_and_its_legend_above() -> None:
    assert ticks((0.0, 3000.0), 4) == [0, 1000, 2000, 3000]
    assert ticks((0.803, 0.872), 5) == pytest.approx([0.82, 0.84, 0.86])
    drawn = metric_chart(outcomes(arms_of([UNIFORM, RHO]), comparison([UNIFORM, RHO]))).figure()
    assert drawn.index("class=legend") < drawn.index("<svg")


def test_selection_is_counted_as_by_hand(mixed_run: Path) -> None:
    """Against loops over the steps."""
    finished, inputs = load_run(mixed_run), open_inputs(load(mixed_run / "config.toml"))
    found = coverage_of(*past_of(mixed_run, finished), finished)
    train, plan = inputs.train, inputs.plan
    rows = pq.read_table(mixed_run / "steps.parquet").to_pylist()
    seen = {int(i) for row in rows for i in plan.indices(plan.window(row["step"]))}
    selected = {i for row in rows for i in row["indices"]}
    assert (found.points, found.seen, found.selected) == (len(train), len(seen), len(selected))
    assert len(selected) < len(seen)
    labels = dict(zip(train.indices.tolist(), train.labels(train.indices).tolist(), strict=True))
    for label, share in enumerate(found.class_skipped):
        of_class = [i for i in seen if labels[i] == label]
        assert share == pytest.approx(np.mean([i not in selected for i in of_class]))
    clean, relevant = train.clean_labels(train.indices), train.relevant(train.indices)
    assert clean is not None and relevant is not None and found.noisy and found.relevant
    wrong = {i for i, c in zip(labels, clean.tolist(), strict=True) if labels[i] != c}
    kept = {i for i, r in zip(labels, relevant.tolist(), strict=True) if r}
    for shares, flagged in ((found.noisy, wrong), (found.relevant, kept)):
        groups = (set(labels), selected, seen - selected)
        expected = [len(flagged & group) / len(group) for group in groups]
        assert [shares.all, shares.selected, shares.skipped] == pytest.approx(expected)
    before: set[int] = set()
    assert found.relevance is not None
    for row, repeats, relevance in zip(rows, found.repeats, found.relevance, strict=True):
        originals = train.originals(np.array(row["indices"])).tolist()
        firsts = set(originals) - before  # a duplicate in the same batch is no first time either
        assert repeats == pytest.approx(1 - len(firsts) / len(originals))
        assert relevance == pytest.approx(len(kept.intersection(row["indices"])) / len(originals))
        before |= firsts
    assert any(len(set(train.originals(np.array(row["indices"])))) < 8 for row in rows)


def test_the_page_of_the_command_says_what_was_skipped(mixed_run: Path, tmp_path: Path) -> None:
    """Of two runs, one whose irreducible losses are gone: the rest of it is shown all the same."""
    lost = Path(shutil.copytree(mixed_run, tmp_path / "lost"))
    config = lost / "config.toml"
    config.write_text(config.read_text().replace("il.parquet", "gone.parquet"))
    out = tmp_path / "new" / "page.html"
    made("report", mixed_run, lost, "--out", out)
    shown = Page(out.read_text())
    finished = load_run(mixed_run)
    found = coverage_of(*past_of(mixed_run, finished), finished)
    assert shown.foreign == []
    counts = shown.rows("class")
    worst = int(found.class_skipped.argmax())
    assert counts[str(worst)][-1] == f"{found.class_skipped[worst]:.1%}"
    rows = next(rows for rows in shown.tables if rows[1][0] == "points of the train split")
    numbers = [row[1] for row in rows[1:5]]
    expected = (found.points, found.seen, found.selected, found.seen - found.selected)
    assert numbers == [f"{number:,}" for number in expected]
    assert found.noisy is not None
    assert rows[5][1].startswith(f"{found.noisy.all:.1%}, {found.noisy.selected:.1%}, ")
    [reason] = shown.warnings[-1]
    assert reason.startswith("lost: il.table ") and "no such file" in reason
    assert shown.rows("share of the points")["selected before"][1] == "unknown"


def test_points_to_look_at_are_those_of_a_loop_by_hand(mixed_run: Path) -> None:
    finished = load_run(mixed_run)
    inputs, past = past_of(mixed_run, finished)
    shown = examples_of(mixed_run, finished, inputs, past)
    rows = pq.read_table(mixed_run / "steps.parquet").to_pylist()
    plan, train = inputs.plan, inputs.train
    seen = Counter(int(i) for r in rows for i in plan.indices(plan.window(r["step"])))
    chosen = Counter(i for r in rows for i in r["indices"])
    never = sorted((count for i, count in seen.items() if i not in chosen), reverse=True)
    assert [each.seen for each in shown.skipped] == never[: len(shown.skipped)]
    assert all(each.selected == chosen[each.index] == 0 for each in shown.skipped)
    most = sorted(chosen.values(), reverse=True)
    assert [each.selected for each in shown.selected] == most[: len(shown.selected)]
    assert all((chosen[e.index], seen[e.index]) == (e.selected, e.seen) for e in shown.selected)
    assert len(shown.skipped) == len(shown.selected) == 12
    out = mixed_run.with_name("points.parquet")
    made("export", mixed_run, "--out", out)
    exported = {row["index"]: row for row in pq.read_table(out).to_pylist()}
    assert shown.suspicious
    for each in (*shown.skipped, *shown.selected, *shown.suspicious):
        row = exported[each.index]
        assert (each.label, each.clean_label) == (row["label"], row["clean_label"])
        assert each.last_loss == pytest.approx(row["last_loss"], rel=1e-4)
        assert each.irreducible_loss == pytest.approx(row["irreducible_loss"])
        assert each.origin in ("", f"{row['source']}, row {row['source_row']}")
        assert each.picture is not None
        pixels = imread(io.BytesIO(each.picture), format="png")
        stored = train.stored(np.array([each.index]))[0, 0]
        np.testing.assert_array_equal(np.round(pixels * 255), stored)
    suspected = {i for i, row in exported.items() if row["suspected_noisy"]}
    assert {each.index for each in shown.suspicious} <= suspected


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_in_a_browser(mixed_run: Path, tmp_path: Path, width: int, dark: bool) -> None:
    """On a phone and on a desk: nothing overflows, legends hide no curve, pictures are there."""
    out = tmp_path / "page.html"
    out.write_text(page([UNIFORM, load_run(mixed_run), SLOW], [Path("no"), mixed_run, Path("no")]))
    seen = opened(out, width, tmp_path, dark)
    assert seen.errors == []
    assert seen.found["beyond"] == seen.found["covered"] == []
    assert seen.found["scroll"] <= seen.found["width"]
    assert width - 20 <= seen.found["width"] <= width
    assert len(seen.found["pictures"]) >= 17
    assert all(natural > 0 and shown > 50 for natural, shown in seen.found["pictures"])
    assert len(seen.found["curves"]) > 3
    assert max(seen.found["curves"]) > 0.5 * min(width, 900)
    light = sum(map(int, re.findall(r"\d+", seen.found["background"])[:3])) > 380
    assert light is not dark


def test_files_of_another_kind_are_refused(mixed_run: Path, tmp_path: Path) -> None:
    result = rhoctl("report", mixed_run, "--out", tmp_path / "new" / "page.pdf")
    assert (result.code, result.out) == (2, "")
    assert re.fullmatch(r"rhoctl: --out .*: got '.pdf', allowed .html or .png\n", result.err)
    assert not (tmp_path / "new").exists()
