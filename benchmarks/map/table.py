"""What the map holds: an entry a cell and arm, and where RHO-LOSS wins or loses."""

from __future__ import annotations

import json
import math
import statistics
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cells import ARMS, LONGER, RHO, UNIFORM, Cell, Costs

from rhoselect.report.metric import Metric

Entry = dict[str, Any]
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
"""By the number of pairs: how many standard errors 95% of mean differences lie within."""


Earlier = Mapping[tuple[Any, ...], Entry]
"""Entries by ``key``."""


def key(entry: Entry) -> tuple[Any, ...]:
    """The cell and arm of an entry."""
    return tuple(entry[name] for name in ("target", "noise", "copies", "budget", "arm"))


def earlier(path: Path) -> Earlier:
    """The entries of a map.json, perhaps of another machine's runs."""
    entries = json.loads(path.read_text("utf-8")) if path.exists() else []
    return {key(entry): entry for entry in entries}


def entries_of(cells: Iterable[Cell], folder: Path, costs: Path, known: Earlier) -> list[Entry]:
    """An entry a cell and arm."""
    return [entry(cell, arm, folder, costs, known) for cell in cells for arm in ARMS]


def entry(cell: Cell, arm: str, folder: Path, costs: Path, known: Earlier) -> Entry:
    """``final``: test figures by seed. ``device_seconds`` and ``flops`` are of one run, those of
    RHO-LOSS with the fit of its irreducible losses; None where no run has ended. Where an earlier
    entry has more seeds, it is kept."""
    found = _entry(cell, arm, folder, costs)
    other = known.get(key(found), found)
    return other if len(other["seeds"]) > len(found["seeds"]) else found


def _entry(cell: Cell, arm: str, folder: Path, costs: Path) -> Entry:
    """That of the runs that ended in a folder."""
    stem = f"{cell.target.name}-{cell.budget}-{arm}"
    runs = {
        seed: folder / cell.ground / "runs" / f"{stem}-{seed}" for seed in range(cell.target.seeds)
    }
    ended = {seed: run for seed, run in runs.items() if (run / "summary.json").exists()}
    found = [json.loads((run / "summary.json").read_text("utf-8")) for run in ended.values()]
    step = Costs.stored(costs, cell.target)
    one = found[0] if found else {}
    first = next(iter(ended.values()), None)
    return {
        "noise": cell.noise,
        "copies": cell.copies,
        "budget": cell.budget,
        "target": cell.target.name,
        "arm": arm,
        "seeds": list(ended),
        "final": [summary["final_metric"] for summary in found],
        "device_seconds": step.of(arm, one["steps"]) if step and found else None,
        "flops": sum(one["flops"].values()) if found else None,
        "run": bool(found),
        "metric": one.get("metric"),
        "direction": one.get("metric_direction"),
        "steps": one.get("steps"),
        "lr": rate(first) if first else None,
    }


def rate(run: Path) -> float:
    """The learning rate of a run, which the sweep chose."""
    return float(tomllib.loads((run / "config.toml").read_text("utf-8"))["trainer"]["lr"])


@dataclass(frozen=True)
class Gain:
    """What RHO-LOSS gains in a cell on another arm, seed by seed: mean, standard error, pairs.
    More is better: an accuracy in points, another figure as it is."""

    mean: float
    error: float
    pairs: int

    @property
    def word(self) -> str:
        if self.pairs < 2:
            return "one seed"
        if abs(self.mean) <= STUDENT.get(self.pairs, 2.0) * self.error:
            return "draws"
        return "wins" if self.mean > 0 else "loses"


@dataclass(frozen=True)
class Row:
    """A cell: its entries by arm, and what RHO-LOSS gains at equal steps and device-seconds, None
    where it was not run."""

    arms: dict[str, Entry]
    steps: Gain | None
    seconds: Gain | None

    @property
    def first(self) -> Entry:
        return self.arms[RHO]

    @property
    def metric(self) -> Metric:
        return Metric(self.first["metric"], self.first["direction"])


def rows_of(entries: Sequence[Entry]) -> list[Row]:
    """A row a cell."""
    cells: dict[tuple[Any, ...], dict[str, Entry]] = {}
    for each in entries:
        cells.setdefault(key(each)[:-1], {})[each["arm"]] = each
    return [
        Row(arms, gain(arms[RHO], arms[UNIFORM]), gain(arms[RHO], arms[LONGER]))
        for arms in cells.values()
    ]


def gain(rho: Entry, other: Entry) -> Gain | None:
    """That of the seeds that both have."""
    seeds = [seed for seed in rho["seeds"] if seed in other["seeds"]]
    if not seeds:
        return None
    metric = Metric(rho["metric"], rho["direction"])
    scale = 100.0 if metric.is_share else 1.0
    values, others = (dict(zip(e["seeds"], e["final"], strict=True)) for e in (rho, other))
    found = [scale * metric.worth(values[seed] - others[seed]) for seed in seeds]
    error = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else math.inf
    return Gain(statistics.mean(found), error, len(found))
