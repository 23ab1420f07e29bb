"""What a comparison found: a row an arm, with paired differences, costs and a verdict."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rhoselect.comparison.arms import (
    CHARGED,
    CLEAN,
    DISTINCT,
    HOLDOUT,
    INFOBATCH,
    LEDGERS,
    UNIFORM,
    WIDE,
    Arm,
    Clock,
    cost,
    scorers_of,
    selection_name,
)
from rhoselect.comparison.protocol import Case, Chosen
from rhoselect.report.metric import Metric

Row = dict[str, Any]
SHARED_BY = (1, 5, 25)
"""How many runs share the irreducible losses."""
CLEAR = 3.0
"""Standard errors of a difference that is called one: 95% of five pairs lie within 2.8."""
ENOUGH_SEEDS = 5


def rows_of(
    case: Case, chosen: Mapping[str, Chosen], finals: Mapping[str, list[float]]
) -> list[Row]:
    """A row an arm. ``difference`` is to the best uniform arm on one device, seed by seed, and
    ``error`` its standard error; ``seconds`` and ``device_seconds`` are by ledger, and by how many
    runs share the irreducible losses."""
    metric = case.setting.metric
    best = best_of(finals, (UNIFORM, HOLDOUT), metric)
    scorers, rows = scorers_of(case.setting.config), []
    for arm in case.arms:
        values = finals[arm.name]
        difference, error = paired(values, finals[best])
        pick = chosen[arm.name]
        rows.append(
            {
                "configuration": case.setting.name,
                "budget": case.budget,
                "budget_s": case.budget_s,
                "arm": arm.name,
                "steps": arm.steps,
                "lr": pick.lr,
                "lr_at_edge": pick.at_edge,
                "trials": pick.trials,
                "dropped_share": pick.share,
                "metric": metric.name,
                "metric_direction": metric.direction,
                "values": values,
                "mean": statistics.mean(values),
                "deviation": statistics.stdev(values),
                "against": best,
                "difference": difference,
                "error": error,
                "scorers": scorers,
                "seconds": _costs(arm, case, 0),
                "device_seconds": _costs(arm, case, 1),
            }
        )
    return rows


def _costs(arm: Arm, case: Case, place: int) -> Row:
    """{ledger: {runs that share the irreducible losses: seconds (0) or device-seconds (1)}}."""
    clock, scorers = case.clock, scorers_of(case.setting.config)
    return {
        ledger: {str(runs): cost(arm, clock, ledger, runs, scorers)[place] for runs in SHARED_BY}
        for ledger in LEDGERS
    }


def best_of(finals: Mapping[str, list[float]], names: Sequence[str], metric: Metric) -> str:
    """The arm of ``names`` with the best mean, of those that ran."""
    ran = [name for name in names if name in finals]
    return max(ran, key=lambda name: metric.worth(statistics.mean(finals[name])))


def paired(values: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """Mean of values - others, seed by seed, and its standard error."""
    differences = [value - other for value, other in zip(values, others, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences), error


def verdict(case: Case, finals: Mapping[str, list[float]], charged_runs: int) -> str:
    """One sentence on a case: whether the selection wins, loses or draws, in each ledger and
    against the best of the cheap rivals."""
    name, scorers = selection_name(case.setting.config), scorers_of(case.setting.config)
    said = partial(_said, case.setting.metric, finals)
    baselines = (UNIFORM, HOLDOUT)
    parts = [said("with scoring free", name, baselines)]
    if CHARGED in finals:
        ledger = f"charged on one device, irreducible losses shared by {charged_runs} runs,"
        parts.append(said(ledger, CHARGED, baselines))
    else:
        parts.append(f"charged on one device it was not run ({case.left_out[CHARGED]})")
    if WIDE in finals:
        times = _slower(case.clock, scorers)
        slower = f"in {times:.2f} times the seconds, " if times > 1 else ""
        ledger = f"{slower}with {scorers} scorers, whose devices the baseline has, too,"
        parts.append(said(ledger, name, (*baselines, WIDE)))
    if rivals := [rival for rival in (CLEAN, DISTINCT, INFOBATCH) if rival in finals]:
        parts.append(said("among the cheap rivals", name, rivals))
    seeds = len(finals[name])
    few = "" if seeds >= ENOUGH_SEEDS else f" (only {seeds} seeds: a sign, not a finding)"
    return f"{case.setting.name}, budget {case.budget}: {name} {'; '.join(parts)}{few}."


def _slower(clock: Clock, scorers: int) -> float:
    """How many times longer a step takes if ``scorers`` devices score beside training."""
    return max(1.0, (clock.selection_s - clock.uniform_s) / scorers / clock.uniform_s)


def _said(
    metric: Metric,
    finals: Mapping[str, list[float]],
    ledger: str,
    name: str,
    baselines: Sequence[str],
) -> str:
    best = best_of(finals, baselines, metric)
    difference, error = paired(finals[name], finals[best])
    unit = "points" if metric.is_share else f"of {metric.label}"
    spread = f"{unit} (standard error {metric.difference(error)})"
    if abs(difference) <= CLEAR * error:
        return f"{ledger} draws with {best}: {metric.difference(difference, '+')} {spread}"
    word = "wins against" if metric.worth(difference) > 0 else "loses against"
    return f"{ledger} {word} {best} by {metric.difference(abs(difference))} {spread}"
