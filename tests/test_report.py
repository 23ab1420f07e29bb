"""Runs side by side: who reaches the uniform run's best accuracy, when, and how much sooner."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
from matplotlib.image import imread
from rich.console import Console

from rhoselect.config import Config, DataConfig, load
from rhoselect.errors import RunFolderError
from rhoselect.inputs import open_inputs
from rhoselect.report.comparison import comparison, table
from rhoselect.report.coverage import coverage_of
from rhoselect.report.page import page, write_page
from rhoselect.report.plots import figure
from rhoselect.report.runs import Run, Selected, load_run
from rhoselect.trainer.evaluate import Evaluation
from rhoselect.trainer.records import Records, StepRecord
from rhoselect.trainer.runfolder import RunFolder
from support import made, rhoctl


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
    return Run(f"my-{method}", summary, steps, steps / 50, 320 * steps, measured, worst, selected)


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


@pytest.mark.parametrize("lines", ["", '{"step": 2, "seconds": 1, "accuracy": NaN}\n'])
def test_a_run_without_readable_accuracies_is_refused(folder: Path, lines: str) -> None:
    (folder / "eval.jsonl").write_text(lines)
    with pytest.raises(RunFolderError, match=r"evaluations or steps cannot be read: .*eval\.jsonl"):
        load_run(folder)


class Page(HTMLParser):
    """What a page shows: the cells of its tables, its texts, the SVGs of its images, and whatever
    would be fetched or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.texts: list[str] = []
        self.images: dict[str, str] = {}
        self.foreign: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        source = given.get("src") or given.get("href") or ""
        kind, _, data = source.partition(";base64,")
        if kind == "data:image/svg+xml":
            self.images[str(given["alt"])] = base64.b64decode(data).decode()
        elif source or tag in ("script", "link", "b"):
            self.foreign.append(f"{tag} {source}")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.lasttag in ("th", "td"):
            self.tables[-1][-1][-1] += data

    def cells(self, first: str) -> list[list[str]]:
        """The rows of the table whose head begins with "run" and has a cell ``first``."""
        return next(rows[1:] for rows in self.tables if first in rows[0])


def texts(svg: str) -> list[str]:
    """What stands in a figure."""
    root = ElementTree.fromstring(svg)
    return ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_a_page_needs_nothing_else_and_shows_names_as_they_are(folder: Path) -> None:
    write_page(folder)
    shown = Page((folder / "report.html").read_text())
    assert shown.foreign == []
    assert {"<b>run", "<script>"} <= {text.strip('"') for text in shown.texts}
    assert "<b>run" in texts(shown.images["accuracy"])
    summary = {row[0]: row[1] for row in shown.tables[-1]}
    assert summary == {k: json.dumps(v) for k, v in load_run(folder).summary.items()}


def test_the_page_compares_runs_in_steps_candidates_seconds_and_flops() -> None:
    shown = Page(page([UNIFORM, RHO, SLOW], ["no data"] * 3))
    scales = ("optimizer steps", "candidates drawn", "seconds", "FLOPs", "my-uniform")
    said = texts(shown.images["accuracy"])
    for scale in scales:
        assert any(text.startswith(scale) for text in said)
    uniform, rho, slow = shown.cells("fewer steps")
    assert uniform[5:] == ["400", "1.0x", "128000"]
    assert rho[5:] == ["150", "2.7x", "48000"]
    assert slow[5:] == ["not reached"] * 3
    uniform, _, slow = shown.cells("seconds to target")
    assert uniform[1:] == ["8.0", "11.5", "1.2e+06", "1.7e+06", "3e+06", "6e+06", "5e+05"]
    assert slow[1:5] == ["not reached"] * 4
    assert shown.cells("of the worst class")[1] == [
        "my-reducible_loss",
        "0.8000",
        "0.4000",
        "0.4500",
    ]


def test_shares_count_zeros_and_steps_before_the_weakest_runs_final_accuracy() -> None:
    """The weakest ends at 0.5; this run is there after 2 of 4 steps."""
    weak = run("uniform", [0.5, 0.5, 0.5])
    corrupted, correct = np.array([0.0, 0.0, 0.4, np.nan]), np.array([0.1, 0.3, 0.9, 0.9])
    selected = Selected(np.arange(4), np.arange(4), corrupted, correct)
    strong = replace(run("loss", [0.3, 0.5, 0.9, 0.9], every=1), selected=selected)
    row = Page(page([weak, strong], ["no data"] * 2)).cells("already correct")[1]
    assert row[1:] == ["13.3%", "not known", "55.0%", "20.0%", "not known", "not known"]


def test_selection_is_counted_as_by_hand(mixed_run: Path) -> None:
    """Against loops over the steps."""
    finished, inputs = load_run(mixed_run), open_inputs(load(mixed_run / "config.toml"))
    found = coverage_of(mixed_run, finished)
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
    found = coverage_of(mixed_run, load_run(mixed_run))
    assert shown.foreign == []
    [row] = shown.cells("class skipped most")
    counts = (found.points, found.seen, found.selected, found.seen - found.selected)
    assert row[:5] == ["run", *map(str, counts)]
    worst = int(found.class_skipped.argmax())
    assert row[5] == f"{worst}: {found.class_skipped[worst]:.1%}"
    assert found.noisy is not None
    assert row[7].startswith(f"{found.noisy.all:.1%}, {found.noisy.selected:.1%}, ")
    assert any(
        text.startswith("lost: il.table ") and "no such file" in text for text in shown.texts
    )
    for name in (
        "share corrupted",
        "share already correct",
        "share selected before",
        "share relevant",
    ):
        assert name in texts(shown.images["selected points"])
    assert "share never selected" in texts(shown.images["classes"])
    with_repeats, without = shown.cells("already correct")
    assert with_repeats[5].endswith("%")
    assert without[5] == "not known"


def test_files_of_another_kind_are_refused(mixed_run: Path, tmp_path: Path) -> None:
    result = rhoctl("report", mixed_run, "--out", tmp_path / "new" / "page.pdf")
    assert (result.code, result.out) == (2, "")
    assert re.fullmatch(r"rhoctl: --out .*: got '.pdf', allowed .html or .png\n", result.err)
    assert not (tmp_path / "new").exists()
