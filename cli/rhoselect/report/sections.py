"""Sections of the page below its verdict: costs, what was selected, classes, points."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence

import numpy as np

from rhoselect.report.arms import Arm, spread
from rhoselect.report.coverage import Coverage, Shares
from rhoselect.report.examples import Example, Examples
from rhoselect.report.markup import heading, paragraph, table
from rhoselect.report.runs import Run, late, mean
from rhoselect.report.units import count, flops, nats, percent, seconds
from rhoselect.report.verdict import Outcome

CLASSES = 20
"""Classes that a table shows at most."""
UNKNOWN = "unknown"
IN_WORDS = (
    "Texts are shown as the model gets them, word by word, in lower case and cut; of words that"
    " share a token id, the most frequent one."
)
Names = Sequence[str] | None
"""What people call the classes [K], if they have names."""


def costs(found: Sequence[Outcome]) -> str:
    """Seconds to the target in one bar an arm; and the same in candidates and FLOPs."""
    parts = ["before the run", "getting the batch", "training and the rest"]
    rows = [_spent(each) for each in found]
    longest = max(sum(row) for row in rows) or 1.0
    goal = found[0].arm.first.metric.text(found[0].target)
    bars = []
    for each, row in zip(found, rows, strict=True):
        reached = each.steps.sure is not None
        until = f"to {goal}" if reached else "in all, target not reached"
        bits = ", ".join(f"{seconds(s)} {name}" for s, name in zip(row, parts, strict=True) if s)
        segments = "".join(
            f"<i class=c{number + 3} style='width:{value / longest:.2%}'></i>"
            for number, value in enumerate(row)
        )
        bars.append(
            paragraph(f"{each.arm.name}: {seconds(sum(row))} {until}")
            + f"<div class=bar>{segments}</div>{paragraph(bits, 'about')}"
        )
    items = "".join(f"<li class=c{n + 3}>{name}</li>" for n, name in enumerate(parts))
    about = (
        "Before the run: the fit of its irreducible losses (or of its proxy model), made once for"
        " all runs that share them. FLOPs are counted from matrix products and convolutions. A run"
        " that selects uniformly draws as many candidates a step and scores none."
    )
    cells = [
        ["steps", *(each.steps.text(count) for each in found)],
        ["candidates drawn", *(each.candidates.text(count) for each in found)],
        ["FLOPs of the run", *(each.flops.text(flops) for each in found)],
        ["FLOPs before it", *(flops(each.arm.first.prior_flops) for each in found)],
    ]
    heads = [f"to {goal}", *(each.arm.name for each in found)]
    legend = f"<ul class=legend>{items}</ul>"
    return (
        heading("Cost") + legend + "".join(bars) + table(heads, cells) + paragraph(about, "about")
    )


def _spent(each: Outcome) -> tuple[float, float, float]:
    """Seconds before the run, getting batches, and at work until the target (else the end)."""
    runs = [run.summary for run in each.arm.runs]
    wall = spread([run["wall_seconds"] for run in runs]).mean or 0.0
    waited = spread([run.get("trainer_wait_seconds", 0.0) for run in runs]).mean or 0.0
    until = each.seconds.sure if each.seconds.sure is not None else wall
    waits = until * min(1.0, waited / max(wall, 1e-9))
    return each.prior_seconds, waits, until - waits


def shares(arms: Sequence[Arm], coverages: Sequence[Coverage | None]) -> str:
    """What the batches consisted of, as means over the steps of an arm's first seed; nothing if no
    arm knows."""
    metric = arms[0].first.metric
    weakest = metric.worst([arm.first.final for arm in arms])

    def early(run: Run) -> float | None:
        at = run.first(weakest)
        return mean(run.selected.correct[: None if at is None else int(run.steps[at])])

    def of(figure: Callable[[Coverage], float | None]) -> list[float | None]:
        return [None if c is None else figure(c) for c in coverages]

    runs = [arm.first for arm in arms]
    rows = {
        "with a wrong label": [mean(run.selected.corrupted) for run in runs],
        "… in the last quarter": [mean(late(run.selected.corrupted)) for run in runs],
        "classified correctly before": [mean(run.selected.correct) for run in runs],
        f"… until {metric.label} {metric.text(weakest)}": [early(run) for run in runs],
        "selected before": of(lambda c: mean(c.repeats)),
        "relevant": of(lambda c: None if c.relevance is None else mean(c.relevance)),
    }
    cells = [
        [name, *(UNKNOWN if value is None else percent(value) for value in values)]
        for name, values in rows.items()
        if any(value is not None for value in values)
    ]
    heads = ["share of the points trained on", *(arm.name for arm in arms)]
    return table(heads, cells) if cells else ""


def skipped(arms: Sequence[Arm], coverages: Sequence[Coverage | None]) -> str:
    """How much of the train split was seen, selected and skipped; nothing if no arm knows."""
    known = [(a.name, c) for a, c in zip(arms, coverages, strict=True) if c is not None]
    if not known:
        return ""
    rows: dict[str, Callable[[Coverage], str]] = {
        "points of the train split": lambda c: count(c.points),
        "candidates at least once": lambda c: count(c.seen),
        "selected at least once": lambda c: count(c.selected),
        "never selected": lambda c: count(c.seen - c.selected),
        "wrong labels: all, selected, skipped": lambda c: _shares(c.noisy),
        "relevant: all, selected, skipped": lambda c: _shares(c.relevant),
    }
    cells = [[name, *(figure(c) for _, c in known)] for name, figure in rows.items()]
    cells = [row for row in cells if set(row[1:]) != {UNKNOWN}]
    return table(["", *(name for name, _ in known)], cells)


def _shares(found: Shares | None) -> str:
    if found is None:
        return UNKNOWN
    parts = (found.all, found.selected, found.skipped)
    return ", ".join("-" if part is None else percent(part) for part in parts)


def classes(arms: Sequence[Arm], coverages: Sequence[Coverage | None], names: Names) -> str:
    """Final accuracy of each class, and which share of its candidates was never selected."""
    columns: list[tuple[str, Sequence[float | None]]] = []
    for arm in arms:
        if arm.first.class_accuracy:
            by_run = [run.class_accuracy or () for run in arm.runs]
            means = [spread(of_class).mean for of_class in zip(*by_run, strict=True)]
            columns.append((f"accuracy, {arm.name}", means))
    for arm, coverage in zip(arms, coverages, strict=True):
        if coverage is not None:
            never = [None if np.isnan(s) else float(s) for s in coverage.class_skipped]
            columns.append((f"never selected, {arm.name}", never))
    if not columns:
        return ""
    last = columns[0][1]
    order = list(range(len(last)))
    about = "A selection by loss may neglect classes that are rare or hard: compare arms by class."
    if len(order) > CLASSES:
        order = sorted(order, key=lambda k: 2.0 if last[k] is None else last[k] or 0.0)[:CLASSES]
        about += f" Shown: the {CLASSES} of {len(last)} classes with the least in column 1."
    cells = [
        [
            _named(k, names),
            *("-" if (v := values[k]) is None else percent(v) for _, values in columns),
        ]
        for k in order
    ]
    heads = ["class", *(name for name, _ in columns)]
    return heading("Classes") + paragraph(about, "about") + table(heads, cells)


def gallery(name: str, found: Examples) -> str:
    """Points to look at of one arm."""
    kinds = (
        ("Most often skipped", "Candidates again and again, and never selected.", found.skipped),
        ("Most often selected", "The points that the run trained on most often.", found.selected),
        (
            "Most suspicious",
            "The irreducible-loss model and the trained one both find the label less likely than a"
            " guess: wrong labels, or points that belong to several classes.",
            found.suspicious,
        ),
    )
    shown = "".join(
        f"{heading(title, 3)}{paragraph(about, 'about')}"
        f"<ul class=points>{''.join(_card(each, found.names) for each in examples)}</ul>"
        for title, about, examples in kinds
        if examples
    )
    about = paragraph(IN_WORDS, "about") if found.in_words else ""
    return heading(f"Points of {name}") + about + shown if shown else ""


def _named(number: int, names: Names) -> str:
    return str(number) if names is None else names[number]


def _card(each: Example, names: Names) -> str:
    label = html.escape(_named(each.label, names))
    if each.clean_label is not None and each.clean_label != each.label:
        label += f" <s>was {html.escape(_named(each.clean_label, names))}</s>"
    if each.picture is not None:
        data = base64.b64encode(each.picture).decode()
        looks = f"<img alt='point {each.index}' src='data:image/png;base64,{data}'>"
    else:
        looks = f"<q>{html.escape(each.text)}</q>"
    losses = (("loss", each.last_loss), ("irreducible", each.irreducible_loss))
    known = ", ".join(f"{name} {nats(value)}" for name, value in losses if value is not None)
    return (
        f"<li>{looks}<b>{label}</b><br>{known}<br>"
        f"<small>selected {each.selected} of {each.seen} times<br>"
        f"{html.escape(each.origin or f'point {each.index}')}</small></li>"
    )
