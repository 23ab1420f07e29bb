"""The page that compares runs: one file of HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rhoselect.errors import MOST_LISTED, UserError, shortened
from rhoselect.report.arms import Arm, arms_of, differences
from rhoselect.report.comparison import baseline, coarse, comparison, uncounted
from rhoselect.report.coverage import Coverage, coverage_of
from rhoselect.report.curves import metric_chart, selected_charts
from rhoselect.report.examples import Examples, examples_of
from rhoselect.report.history import past_of
from rhoselect.report.markup import document, facts, heading, paragraph, warning
from rhoselect.report.runs import Run, load_run
from rhoselect.report.sections import classes, costs, gallery, shares, skipped
from rhoselect.report.verdict import conditions, outcomes, verdict

UNFAIR = "These arms differ in more than their selection, so the comparison may say something else:"


@dataclass(frozen=True)
class Look:
    """What a run's data set tells of its points."""

    coverage: Coverage
    examples: Examples


def look(path: Path, run: Run, moved: Sequence[str]) -> Look | str:
    """A look at the points of a run; if its data can no longer be read, why they are unknown."""
    try:
        inputs, past = past_of(path, run, moved)
        return Look(coverage_of(inputs, past, run), examples_of(path, run, inputs, past))
    except UserError as error:
        return shortened(str(error))


def page(
    runs: Sequence[Run], paths: Sequence[Path] | None = None, moved: Sequence[str] = ()
) -> str:
    """The page that compares runs. ``paths`` are their folders; without them the page says nothing
    that takes a look at the data. ``moved``: where those are now, see ``past_of``."""
    arms = arms_of(runs)
    base = baseline(arms)
    arms = [base, *(arm for arm in arms if arm is not base)]
    found = outcomes(arms, comparison(runs))
    where = {id(run): path for run, path in zip(runs, paths or [], strict=bool(paths))}
    looks = [look(where[id(arm.first)], arm.first, moved) if where else "" for arm in arms]
    known = [each.coverage if isinstance(each, Look) else None for each in looks]
    unknown = [
        f"{arm.first.name}: {reason}"
        for arm, reason in zip(arms, looks, strict=True)
        if isinstance(reason, str) and reason
    ]
    names = next((each.examples.names for each in looks if isinstance(each, Look)), None)
    headline, sentences = verdict(found)
    sections = [
        heading(headline, 1),
        *(paragraph(text) for text in sentences),
        warning(UNFAIR, differences(arms)),
        warning("Steps and seconds to the target are coarse:", coarse(arms)),
        warning("Times do not tell everything:", uncounted(arms)),
        warning("The steps of these runs were not all computed alike:", _inexact(runs)),
        facts(conditions(arms)),
        metric_chart(found).figure(big=True),
        costs(found),
        *_trained_on(arms, known, unknown),
        classes(arms, known, names),
        *(
            gallery(arm.name, each.examples)
            for arm, each in zip(arms, looks, strict=True)
            if isinstance(each, Look) and arm.first.summary["method"] != "uniform"
        ),
    ]
    return document(", ".join(arm.name for arm in arms), sections)


def _inexact(runs: Sequence[Run]) -> list[str]:
    """Why runs are not exact, of the first of them."""
    found = [run for run in runs if run.summary.get("exact") is False]
    return [f"{run.name}: {run.summary['inexact_because']}" for run in found[:MOST_LISTED]]


def _trained_on(
    arms: Sequence[Arm], known: Sequence[Coverage | None], unknown: Sequence[str]
) -> list[str]:
    """The section of what the batches consisted of; nothing if nothing is known of it."""
    charts = "".join(chart.figure() for chart in selected_charts(arms, known))
    parts = [
        f"<div class=charts>{charts}</div>" if charts else "",
        shares(arms, known),
        skipped(arms, known),
        warning("The points of these runs cannot be shown:", unknown),
    ]
    return [heading("What was trained on"), *parts] if any(parts) else []


def write_page(path: Path) -> None:
    """Write report.html into a finished run folder: the page of that run, without its points."""
    (path / "report.html").write_text(page([load_run(path)]), encoding="utf-8")
