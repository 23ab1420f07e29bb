"""A finished run, opened again: its inputs, and what became of each point of its train split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rhoselect import config as configuration
from rhoselect.errors import ConfigError, RunFolderError, UserError
from rhoselect.inputs import RunInputs, open_inputs
from rhoselect.report.runs import Run
from rhoselect.selection.infobatch import InfoBatch
from rhoselect.trainer.own_loop import GIVEN_DATA
from rhoselect.trainer.runfolder import stored_config
from rhoselect.types import Positions

AT_ONCE = 1 << 18
NEVER = -1
Ints = npt.NDArray[np.int64]


def reopen(path: Path, device: str = "cpu", moved: Sequence[str] = ()) -> RunInputs:
    """The checked inputs of a run, for computing on ``device``. ``moved`` says where they are now,
    as in "data.path=DIR". Raises UserError if they cannot be read any more or are not those that
    the run began with."""
    check_moved(path, moved)
    here = [f"{part}.device={device}" for part in ("scorer", "trainer")]
    config = stored_config(path, [*moved, *here])
    if config.data.dataset == GIVEN_DATA:
        raise RunFolderError(
            f"run folder {path}: its points were given by the loop (data=…) and are not known"
            " here; allowed a run whose configuration names them: data.path or data.dataset"
        )
    inputs = open_inputs(config)
    if (path / "inputs_sha256").read_text("utf-8") != inputs.sha256:
        raise RunFolderError(
            f"run folder {path}: its data, irreducible losses or first weights have changed since;"
            " allowed the contents of data.path, il.table and model.weights that it began with;"
            " restore them"
        )
    return inputs


def check_moved(path: Path, moved: Sequence[str]) -> None:
    """Raise ConfigError if ``moved`` changes more of a run than where its inputs are."""
    stored = stored_config(path)
    try:
        changed = stored.changed_keys(configuration.load(path / "config.toml", moved))
    except ConfigError as error:
        raise ConfigError(f"run folder {path}: {error}") from None
    if changed:
        raise ConfigError(
            f"run folder {path}: --set: got {', '.join(changed)}, allowed where the run's inputs"
            " are now: data.path, il.table, il.weights, svp.table, model.weights"
        )


def moved_for(path: Path, moved: Sequence[str]) -> list[str]:
    """What of ``moved``, which is said of several runs, can move inputs of this one: a run with
    data.dataset has no data.path."""
    if stored_config(path).data.dataset is None:
        return list(moved)
    return [each for each in moved if each.partition("=")[0].strip() != "data.path"]


@dataclass(frozen=True)
class History:
    """Counts [N] by rank in the train split: steps for which a point was a candidate, steps that
    trained on it, and the last of those (from 0; -1: never)."""

    seen: Ints
    selected: Ints
    last_step: Ints

    @property
    def skipped(self) -> npt.NDArray[np.bool_]:
        """Points [N] that were candidates and never selected."""
        skipped: npt.NDArray[np.bool_] = (self.seen > 0) & (self.selected == 0)
        return skipped


def past_of(path: Path, run: Run, moved: Sequence[str] = ()) -> tuple[RunInputs, History]:
    """A run's inputs, opened again, and the history of its points. ``moved`` says where the inputs
    of several runs are: those of one that are not there may be where they were. Raises UserError.
    """
    moved = moved_for(path, moved)
    try:
        inputs = reopen(path, moved=moved)
    except UserError as error:
        if not moved:
            raise
        try:
            inputs = reopen(path)
        except UserError:
            raise error from None
    return inputs, history(inputs, run)


def history(inputs: RunInputs, run: Run) -> History:
    """The history of a run's points; its candidates are computed from the plan."""
    plan, points = inputs.plan, run.selected
    seen = np.zeros(plan.n, np.int64)
    for positions in _candidates(inputs, run):
        np.add.at(seen, plan.indices(positions) - plan.first_index, 1)
    ranks = points.indices - plan.first_index
    selected = np.bincount(ranks, minlength=plan.n)
    last_step = np.full(plan.n, NEVER, np.int64)
    np.maximum.at(last_step, ranks, points.step)
    return History(seen, selected, last_step)


def _candidates(inputs: RunInputs, run: Run) -> Iterator[Positions]:
    """Plan positions of all candidates, some at a time: the windows of all steps, or without
    windows every position up to the last one."""
    plan, steps = inputs.plan, run.summary["steps"]
    if isinstance(inputs.scoring.function, InfoBatch):
        drawn = int(run.candidates[-1])
        for first in range(0, drawn, AT_ONCE):
            yield np.arange(first, min(first + AT_ONCE, drawn), dtype=np.uint64)
        return
    windows = max(1, AT_ONCE // plan.n_B)
    for first in range(0, steps, windows):
        some = range(first, min(first + windows, steps))
        yield np.concatenate([plan.window(window) for window in some])
