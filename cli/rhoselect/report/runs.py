"""A finished run as a report needs it: its summary, its curve, and what its steps selected."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rhoselect.config import flat
from rhoselect.errors import RunFolderError
from rhoselect.importing import one_line
from rhoselect.report.metric import Floats, Metric, smoothed
from rhoselect.trainer.driver import driver_of
from rhoselect.trainer.own_loop import GIVEN_DATA
from rhoselect.trainer.records import read_evaluations, read_steps
from rhoselect.trainer.resuming import Kind, how_to_resume, kind_of
from rhoselect.types import Indices

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Selected:
    """The S = sum of the batches' points in training order: ``indices`` [S], ``step`` [S] int64.

    ``corrupted`` and ``correct`` [T] are shares of each of the T batches, NaN where not known: of
    points whose label was changed by noise, and of points that the weights before the step
    classified correctly.
    """

    indices: Indices
    step: Ints
    corrupted: Floats
    correct: Floats

    def share(self, flags: npt.NDArray[np.bool_]) -> Floats:
        """The share [T] of each batch that has its flag of ``flags`` [S]; NaN of one that is not
        known."""
        batches = len(self.corrupted)
        counts = np.bincount(self.step, minlength=batches)
        flagged = np.bincount(self.step, flags, batches)
        return np.where(counts > 0, flagged / np.maximum(counts, 1), np.nan)


@dataclass(frozen=True)
class Run:
    """A finished run: its summary and its E evaluations as arrays [E].

    ``settings``: its configuration, {dotted key: value in JSON}, empty if it cannot be read.
    ``inputs_sha256``: hash of data, irreducible losses and first weights, "" where not known.
    ``class_accuracy`` [K] at the last evaluation, None for a class without test points; None of
    runs whose evaluations do not tell.
    """

    name: str
    summary: dict[str, Any]
    steps: Ints
    seconds: Floats
    candidates: Ints
    figures: Floats
    worst_class_accuracy: Floats
    selected: Selected
    settings: Mapping[str, str] = field(default_factory=dict)
    inputs_sha256: str = ""
    class_accuracy: Sequence[float | None] | None = None
    kind: Kind = "trained"

    def obeyed(self, key: str) -> bool:
        """Whether a setting had an effect: the optimizer of a loop of the user's is its own, and so
        is its model if it gave the points."""
        if key.startswith("trainer."):
            return self.kind == "trained"
        given = self.settings.get("data.dataset") == json.dumps(GIVEN_DATA)
        return not (given and key.startswith("model."))

    @property
    def flops(self) -> Floats:
        """FLOPs [E] of training and scoring up to each evaluation; each step costs the same."""
        counts = self.summary["flops"]
        each = float(counts["train"] + counts["score"]) / int(self.summary["steps"])
        return each * self.steps.astype(np.float64)

    @property
    def prior_seconds(self) -> float:
        """Seconds spent before the run on its irreducible losses or its proxy model."""
        return float(self.summary["il_seconds"] + self.summary["proxy_seconds"])

    @property
    def prior_flops(self) -> float:
        """FLOPs spent before the run on its irreducible losses or its proxy model."""
        return float(self.summary["flops"]["il"] + self.summary["flops"]["proxy"])

    @property
    def corrupted_share(self) -> float | None:
        """Mean over the steps where it is known, zeros included."""
        return mean(self.selected.corrupted)

    @property
    def smooth(self) -> Floats:
        """Means [E] of three neighbouring evaluations (two at the ends)."""
        return smoothed(self.figures)

    @property
    def final(self) -> float:
        """Mean of the last three figures."""
        return float(self.figures[-3:].mean())

    @property
    def metric(self) -> Metric:
        """What the figures are."""
        return Metric.of(self.summary)

    @property
    def best(self) -> float:
        """The best smoothed figure."""
        return self.metric.best(self.smooth)

    def first(self, target: float) -> int | None:
        """The first evaluation whose smoothed figure is as good as ``target``."""
        return self.metric.first(self.smooth, target)


def load_run(path: Path, measured: bool = True) -> Run:
    """Read a finished run folder; ``measured``: one that has evaluations. Raises RunFolderError."""
    try:
        summary = json.loads((path / "summary.json").read_text("utf-8"))
    except FileNotFoundError:
        raise RunFolderError(
            f"run folder {path}: has no summary.json; allowed a finished run{_how_to_finish(path)}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"run folder {path}: summary.json cannot be read: {error}") from None
    if not isinstance(summary, dict) or "method" not in summary:
        raise RunFolderError(
            f"run folder {path}: summary.json is not a run's; allowed a finished run"
        )
    try:
        run = _read(path, summary)
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"run folder {path}: its evaluations or steps cannot be read: {one_line(error)}"
        ) from None
    if measured and not len(run.figures):
        name = run.metric.name
        raise RunFolderError(
            f"run folder {path}: has no {name} in eval.jsonl, allowed one or more; a loop of your"
            f" own gives them with selection.log(step, {name}=…)"
        )
    return run


def _how_to_finish(path: Path) -> str:
    """What to do, if the folder is that of a run."""
    if not (path / "config.toml").exists():
        return ""
    driver = driver_of(path)
    if driver is not None and driver.lives:
        return f"; {driver} still runs it"
    if kind_of(path) == "trained":
        return f"; finish it with: {how_to_resume(path)}"
    return (
        "; a loop of your own makes one when it ends, or closes its SelectionClient; if it has"
        f" died, go on with: {how_to_resume(path)}"
    )


def told_apart(runs: Sequence[Run], paths: Sequence[Path]) -> list[Run]:
    """Runs with the names of their folders, or with the paths where two folders have one name.
    Raises RunFolderError for runs that measured different figures."""
    if len(metrics := {run.metric.name for run in runs}) > 1:
        raise RunFolderError(
            f"runs: got some that measured {' and '.join(sorted(metrics))}, allowed runs of one"
            " metric; compare those of one task"
        )
    names = Counter(run.name for run in runs)
    return [
        replace(run, name=str(path)) if names[run.name] > 1 else run
        for run, path in zip(runs, paths, strict=True)
    ]


def _read(path: Path, summary: dict[str, Any]) -> Run:
    name = Metric.of(summary).name
    told = [{"metric": e.get(name), **e} for e in read_evaluations(path)]
    evaluations = [e for e in told if e["metric"] is not None]
    rows = read_steps(path)
    steps = np.array([e["step"] for e in evaluations], np.int64)
    batches = rows["indices"].chunks  # of which one alone could not count so many points
    lengths = np.concatenate([chunk.value_lengths().to_numpy() for chunk in batches])
    selected = Selected(
        np.concatenate([chunk.flatten().to_numpy() for chunk in batches]),
        np.repeat(np.arange(len(rows)), lengths),
        _floats(rows["corrupted_share"].to_pylist()),
        _floats(rows["correct_share"].to_pylist()),
    )
    figures = _floats(e["metric"] for e in evaluations)
    if not np.isfinite(figures).all():
        raise ValueError(f"eval.jsonl: got a {name} that is not finite")
    drawn = np.cumsum([0, *rows["candidates"].to_pylist()])
    return Run(
        path.name,
        summary,
        steps,
        _floats(e["seconds"] for e in evaluations),
        drawn[np.minimum(steps, len(rows))],
        figures,
        _floats(e.get("worst_class_accuracy") for e in evaluations),
        selected,
        _settings(path / "config.toml"),
        _text(path / "inputs_sha256"),
        evaluations[-1].get("class_accuracy") if evaluations else None,
        kind_of(path),
    )


def _settings(path: Path) -> dict[str, str]:
    """A configuration as it stands there, whether this version can use it or not."""
    try:
        return flat(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.is_file() else ""


def late(values: Floats) -> Floats:
    """The last quarter of a run's values, one a step."""
    return values[int(0.75 * len(values)) :]


def mean(values: Floats) -> float | None:
    """The mean of the values that are known, None of none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _floats(values: Iterable[float | None]) -> Floats:
    return np.array(list(values), np.float64)
