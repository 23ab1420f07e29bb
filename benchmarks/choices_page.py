"""What results.py writes into docs/results/choices.md."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from rhoselect.report.tables import markdown_table


def choices_lines(figures: Mapping[str, Any]) -> list[str]:
    """Verdicts; then a table a measure."""
    heads = ("method", "against", "cells", "won", "lost", "passes")
    verdicts = []
    for each in figures["verdicts"]:
        passes = "yes" if each["passes"] else "no"
        counts = (str(each[name]) for name in ("cells", "won", "lost"))
        verdicts.append([each["rule"], each["base"], *counts, passes])
    lines = [markdown_table(heads, verdicts)]
    for title, measure in (
        ("Accuracy", "accuracy"),
        ("Accuracy of the worst class", "worst_class"),
    ):
        lines += [f"### {title}", "", choices_table(figures, measure)]
    return [*lines[:-1], lines[-1].rstrip()]


def choices_table(figures: Mapping[str, Any], measure: str) -> str:
    """A line a cell and a column a rule: of "top" the mean in %, of the others the points above it
    (seeds), in bold beyond two standard errors."""
    gains = {}
    for each in figures["comparisons"]:
        if each["base"] == "top":
            mean, error = each[measure], each[f"{measure}_error"]
            shown = f"{mean:+.2f} ± {error:.2f} ({each['seeds']})"
            far = abs(mean) > 2 * error
            gains[each["cell"], each["rule"]] = f"**{shown}**" if far else shown
    rules = list(dict.fromkeys(rule for _, rule in gains))
    rows = [
        [row["cell"], f"{statistics.mean(row[measure]):.2%}"]
        + [gains.get((row["cell"], rule), "not run") for rule in rules]
        for row in figures["rows"]
        if row["rule"] == "top"
    ]
    return markdown_table(("group", "top", *rules), rows)
