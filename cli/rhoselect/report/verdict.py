"""The comparison in sentences: what came out, and under which conditions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from rhoselect.report.arms import Arm, Spread, spread
from rhoselect.report.comparison import Row, baseline
from rhoselect.report.units import count, seconds, times
from rhoselect.trainer.own_loop import GIVEN_DATA


@dataclass(frozen=True)
class Outcome:
    """What an arm reached: figures over its seeds. ``total_seconds`` counts those before a run.
    ``fewer`` steps and ``sooner``: how many times, against the baseline."""

    arm: Arm
    target: float
    steps: Spread
    seconds: Spread
    total_seconds: Spread
    fewer: Spread
    sooner: Spread
    candidates: Spread
    flops: Spread
    best: Spread
    final: Spread
    prior_seconds: float


def outcomes(arms: Sequence[Arm], rows: Sequence[Row]) -> list[Outcome]:
    """The arms' outcomes, from the rows of their runs."""
    return [_outcome(arm, [row for row in rows if row["arm"] == arm.name]) for arm in arms]


def _outcome(arm: Arm, rows: Sequence[Row]) -> Outcome:
    def over(key: str) -> Spread:
        return spread([row[key] for row in rows])

    totals = [
        None if (own := row["seconds_to_target"]) is None else own + row["prior_seconds"]
        for row in rows
    ]
    return Outcome(
        arm,
        rows[0][f"target_{arm.first.metric.name}"],
        over("steps_to_target"),
        over("seconds_to_target"),
        spread(totals),
        over("step_speedup"),
        over("time_speedup"),
        over("candidates_to_target"),
        over("flops_to_target"),
        over(f"best_{arm.first.metric.name}"),
        over(f"final_{arm.first.metric.name}"),
        max(row["prior_seconds"] for row in rows),
    )


def verdict(found: Sequence[Outcome]) -> tuple[str, list[str]]:
    """A headline and the sentences below it."""
    base_arm = baseline([each.arm for each in found])
    base = next(each for each in found if each.arm is base_arm)
    others = [each for each in found if each is not base]
    if not others:
        metric = base_arm.first.metric
        headline = f"{base.arm.name}: {base.best.text(metric.text)} test {metric.label}"
        return headline, [_alone(base)]
    return _headline(base, others), [_sentence(base, each) for each in others]


def _alone(one: Outcome) -> str:
    run, metric = one.arm.first, one.arm.first.metric
    took = seconds(run.summary["wall_seconds"])
    before = f", after {seconds(one.prior_seconds)} of preparation" if one.prior_seconds else ""
    return (
        f"Best {metric.label} {one.best.text(metric.text)}, final {one.final.text(metric.text)};"
        f" {count(run.summary['steps'])} optimizer steps in {took}{before}."
    )


def _headline(base: Outcome, others: Sequence[Outcome]) -> str:
    reached = [each for each in others if each.steps.sure is not None]
    goal = f"{base.arm.name}'s best {base.arm.first.metric.label}"
    if not reached:
        whose = others[0].arm.name if len(others) == 1 else "No other arm"
        return f"{whose} {'does not reach' if len(others) == 1 else 'reaches'} {goal}"
    best = max(reached, key=lambda each: each.fewer.sure or 0.0)
    steps, time = best.fewer.sure or 1.0, best.sooner.sure or 1.0
    fewer = _times(steps, "fewer steps", "more steps", "as many steps")
    sooner = _times(time, "sooner", "later", "in the same time")
    joint = "and" if (steps > 1) == (time > 1) else "but"
    counted = ", preparation counted" if best.prior_seconds else ""
    return f"{best.arm.name} reaches {goal} in {fewer}, {joint} {sooner}{counted}"


def _sentence(base: Outcome, each: Outcome) -> str:
    metric = base.arm.first.metric
    name, goal = each.arm.name, f"{metric.text(base.target)}, which {base.arm.name} reaches"
    ends = [one.final.text(metric.text) for one in (each, base)]
    final = f"Final {metric.label} {ends[0]} against {ends[1]}."
    if each.steps.sure is None:
        some = f"in {each.steps.known} of {each.steps.seeds} seeds" if each.steps.known else "never"
        return f"{name}: reaches {some} {goal}; its best is {each.best.text(metric.text)}. {final}"
    steps = f"{each.steps.text(count)} optimizer steps instead of {base.steps.text(count)}"
    time = f"{each.seconds.text(seconds)} instead of {base.seconds.text(seconds)}"
    if each.prior_seconds:
        time += (
            f", or {each.total_seconds.text(seconds)} with what its irreducible losses (or proxy"
            f" model) took before, which runs can share"
        )
    return f"{name}: reaches {goal}, in {steps}, in {time}. {final}"


def _times(ratio: float, less: str, more: str, equal: str) -> str:
    """How many times less or more than the baseline."""
    if 0.95 < ratio < 1.05:
        return equal
    return f"{times(max(ratio, 1 / ratio))} times {less if ratio > 1 else more}"


def conditions(arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """Under what the runs were made: names and values, by arm where they differ."""
    keys = {
        "Data": ("data.path", "data.dataset"),
        "Model": ("model.factory",),
        "Trained on, a step": ("selection.n_b",),
        "Chosen from": ("selection.n_B",),
        "Optimizer": ("trainer.optimizer.name",),
        "Learning rate": ("trainer.lr",),
        "Schedule": ("trainer.schedule",),
        "Scoring precision": ("scorer.precision",),
    }
    shown = [(name, _by_arm(arms, [_setting(a, *keys[name]) for a in arms])) for name in keys]
    seeds = [", ".join(str(run.summary["seed"]) for run in arm.runs) for arm in arms]
    workers = [", ".join(sorted({str(r.summary["workers"]) for r in arm.runs})) for arm in arms]
    steps = [", ".join(sorted({count(r.summary["steps"]) for r in arm.runs})) for arm in arms]
    methods = [str(arm.first.summary["method"]) for arm in arms]
    shown += [("Steps", _by_arm(arms, steps)), ("Method", _by_arm(arms, methods))]
    shown.append(("Seeds", _by_arm(arms, seeds)))
    shown.append(("Scorers (0: one process)", _by_arm(arms, workers)))
    return [(name, value) for name, value in shown if value]


def _setting(arm: Arm, *keys: str) -> str:
    """The first of these settings that the arm has, as short as it can be read."""
    if not arm.first.obeyed(keys[0]):
        return "the loop's own"
    text = next((arm.first.settings[key] for key in keys if key in arm.first.settings), '""')
    value = json.loads(text)
    if value == GIVEN_DATA:
        return "given by the loop"
    if isinstance(value, str):
        return PurePosixPath(value).name.removeprefix("rhoselect.models:")
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _by_arm(arms: Sequence[Arm], values: Sequence[str]) -> str:
    if len(set(values)) == 1:
        return values[0]
    return "; ".join(f"{arm.name}: {v or 'unknown'}" for arm, v in zip(arms, values, strict=True))
