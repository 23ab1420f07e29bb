"""A page of HTML that needs nothing else: tables, and figures as data."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rhoselect.report.comparison import Row, comparison, shown
from rhoselect.report.coverage import Coverage, Shares
from rhoselect.report.plots import SECONDS, STEPS, accuracy_svg, classes_svg, selected_svg
from rhoselect.report.runs import Run, late, load_run, mean

STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:64em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;margin:1em 0}img{width:100%}"
    "th,td{text-align:right;padding:.2em .8em;border-bottom:1px solid #ddd;vertical-align:top}"
    "th:first-child,td:first-child{text-align:left}"
    ".summary td{text-align:left;word-break:break-all}"
)
UNKNOWN = "not known"


def page(runs: Sequence[Run], coverages: Sequence[Coverage | str]) -> str:
    """The page that compares runs. ``coverages`` holds, for each run, what it selected of its data
    set or, in one line, why that is not known."""
    rows = comparison(runs)
    known = [found if isinstance(found, Coverage) else None for found in coverages]
    reasons = [
        f"{run.name}: {found}"
        for run, found in zip(runs, coverages, strict=True)
        if isinstance(found, str)
    ]
    sections = [
        "<h2>Accuracy</h2>",
        _reached(rows) + _image("accuracy", accuracy_svg(runs)),
        "<h2>Cost of the irreducible losses</h2>",
        _costs(runs, rows),
        "<h2>Selected points</h2>",
        _properties(runs, known) + _image("selected points", selected_svg(runs, known)),
        "<h2>Classes</h2>",
        _classes(runs) + _image("classes", classes_svg(runs, known)),
        "<h2>What the selection skipped</h2>",
        "".join(map(_paragraph, reasons)) + _skipped(runs, known),
        "<h2>Summaries</h2>",
        *(f"<h3>{html.escape(run.name)}</h3>{_summary(run)}" for run in runs),
    ]
    return _document(", ".join(run.name for run in runs), sections)


def write_page(path: Path) -> None:
    """Write report.html into a finished run folder: its curve and its summary."""
    run = load_run(path)
    image = _image("accuracy", accuracy_svg([run], (STEPS, SECONDS)))
    (path / "report.html").write_text(_document(run.name, [image, _summary(run)]))


def _reached(rows: Sequence[Row]) -> str:
    target = f"{rows[0]['target_accuracy']:.4f}"
    heads = ["run", "method", "workers", "best", "final", "steps", "fewer steps", "candidates"]
    cells = [
        [
            row["run"],
            row["method"],
            str(row["workers"]),
            f"{row['best_accuracy']:.4f}",
            f"{row['final_accuracy']:.4f}",
            shown(row["steps_to_target"], "{}"),
            shown(row["step_speedup"], "{:.1f}x"),
            shown(row["candidates_to_target"], "{}"),
        ]
        for row in rows
    ]
    text = (
        f"Steps and candidates to accuracy {target}, the best of the first uniform run (else of the"
        " first run), as a mean of three evaluations. Candidates are those drawn: a uniform run"
        " draws as many a step and scores none."
    )
    return _paragraph(text) + _table(heads, cells)


def _costs(runs: Sequence[Run], rows: Sequence[Row]) -> str:
    heads = ["run", "seconds to target", "with those before", "FLOPs to target"]
    heads += ["with those before", "FLOPs of steps", "of scoring", "before the run"]
    cells = []
    for run, row in zip(runs, rows, strict=True):
        seconds, flops = row["seconds_to_target"], row["flops_to_target"]
        counts = run.summary["flops"]
        cells.append(
            [
                run.name,
                shown(seconds, "{:.1f}"),
                shown(None if seconds is None else seconds + run.prior_seconds, "{:.1f}"),
                shown(flops, "{:.3g}"),
                shown(None if flops is None else flops + run.prior_flops, "{:.3g}"),
                *(f"{float(counts[part]):.3g}" for part in ("train", "score")),
                f"{run.prior_flops:.3g}",
            ]
        )
    text = (
        "Before a run: its irreducible losses (or its proxy model) were fitted, once for all runs"
        " that share them. Seconds are this machine's, FLOPs are counted (matrix products and"
        " convolutions)."
    )
    return _paragraph(text) + _table(heads, cells)


def _properties(runs: Sequence[Run], coverages: Sequence[Coverage | None]) -> str:
    heads = ["run", "corrupted", "in the last quarter", "already correct"]
    heads += ["before the weakest's final", "selected before", "relevant"]
    weakest = min(run.final for run in runs)
    cells = []
    for run, coverage in zip(runs, coverages, strict=True):
        chosen, at = run.selected, run.first(weakest)
        until = None if at is None else int(run.steps[at])
        relevance = None if coverage is None else coverage.relevance
        shares = [mean(chosen.corrupted), mean(late(chosen.corrupted))]
        shares += [mean(chosen.correct), mean(chosen.correct[:until])]
        shares.append(None if coverage is None else mean(coverage.repeats))
        shares.append(None if relevance is None else mean(relevance))
        cells.append([run.name, *(shown(share, "{:.1%}", UNKNOWN) for share in shares)])
    text = (
        "Shares of the points trained on, means over the steps where they are known, zeros"
        " included. Already correct: by the weights of before the step; methods that learn more"
        " find more points correct, hence also the mean over the steps before a run reached the"
        f" lowest final accuracy of all runs here ({weakest:.4f})."
    )
    return _paragraph(text) + _table(heads, cells)


def _classes(runs: Sequence[Run]) -> str:
    heads = ["run", "final accuracy", "of the worst class", "best of the worst class"]
    cells = [
        [
            run.name,
            f"{run.accuracy[-1]:.4f}",
            f"{run.worst_class_accuracy[-1]:.4f}",
            f"{run.worst_class_accuracy.max():.4f}",
        ]
        for run in runs
    ]
    text = (
        "A selection by loss may neglect classes that are rare, or that the irreducible-loss model"
        " does badly on: compare the worst class with that of a uniform run before such a model is"
        " used on people."
    )
    return _paragraph(text) + _table(heads, cells)


def _skipped(runs: Sequence[Run], coverages: Sequence[Coverage | None]) -> str:
    heads = ["run", "points", "candidates", "selected", "skipped", "class skipped most"]
    heads += ["least", "noisy (all, selected, skipped)", "relevant (all, selected, skipped)"]
    cells = []
    for run, coverage in zip(runs, coverages, strict=True):
        if coverage is not None:
            skipped = coverage.seen - coverage.selected
            by_class = coverage.class_skipped
            cells.append(
                [
                    run.name,
                    *map(str, (coverage.points, coverage.seen, coverage.selected, skipped)),
                    *(f"{k}: {by_class[k]:.1%}" for k in _extremes(by_class)),
                    _shares(coverage.noisy),
                    _shares(coverage.relevant),
                ]
            )
    text = (
        "Points of the train split that were a candidate at least once, that were selected at least"
        " once, and the rest of the candidates: skipped. Classes by the label trained on."
    )
    return _paragraph(text) + _table(heads, cells) if cells else ""


def _extremes(by_class: np.ndarray[Any, Any]) -> tuple[int, int]:
    """The classes of the greatest and of the least share."""
    return int(np.nanargmax(by_class)), int(np.nanargmin(by_class))


def _shares(shares: Shares | None) -> str:
    if shares is None:
        return UNKNOWN
    return ", ".join(shown(s, "{:.1%}", "-") for s in (shares.all, shares.selected, shares.skipped))


def _summary(run: Run) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(json.dumps(value))}</td></tr>"
        for key, value in run.summary.items()
    )
    return f"<table class=summary>{rows}</table>"


def _document(title: str, sections: Sequence[str]) -> str:
    title = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style><h1>{title}</h1>{''.join(sections)}"
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _image(alt: str, svg: bytes) -> str:
    data = base64.b64encode(svg).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/svg+xml;base64,{data}">'
