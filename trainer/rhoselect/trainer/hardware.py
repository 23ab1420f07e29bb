"""The hardware and releases of a run. All processes of one generation that score are alike, and the
run folder has what each generation had, so that a resume on other hardware is told.

hardware/3.json        facts of the process that scored first in generation 3; others must have them
hardware/steps.jsonl   one line a generation: its facts, and the step from which its steps count
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from rhoselect.errors import RunFolderError
from rhoselect.hardware import Facts, check_alike, difference
from rhoselect.trainer.runfolder import RunFolder, put

FOLDER = "hardware"
STEPS = "steps.jsonl"
WRITTEN_S = 10.0  # for another process to write its few facts
PAUSE_S = 0.05


@dataclass(frozen=True)
class Agreed:
    """What the processes of a generation agree on: the ``facts`` of ``who``, the first of them."""

    who: str
    facts: Facts


@dataclass(frozen=True)
class Exactness:
    """Whether all steps of a run were taken on one kind of hardware with the same releases; None if
    that is not known. ``reason`` says why not, and is empty otherwise."""

    exact: bool | None
    reason: str = ""


@dataclass(frozen=True)
class _Stretch:
    """The steps from ``step`` on, as far as the next stretch, were taken by ``generation``."""

    step: int
    generation: int
    facts: Facts


def agree(folder: RunFolder, who: str, facts: Facts) -> None:
    """Call this in every process that scores, before it does, with its ``facts``. Raises
    HardwareError unless they are those of the first process of the generation that called it."""
    path = _place(folder)
    path.parent.mkdir(exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(asdict(Agreed(who, facts))))
    except FileExistsError:
        first = agreed(folder)
        assert first is not None, "it exists"
        check_alike(who, facts, first.who, first.facts)


def agreed(folder: RunFolder) -> Agreed | None:
    """What the processes of the generation agree on; None before the first of them is ready."""
    path, deadline = _place(folder), time.monotonic() + WRITTEN_S
    while path.exists():
        try:
            return Agreed(**json.loads(path.read_text("utf-8")))
        except ValueError:  # it is being written
            if time.monotonic() > deadline:
                raise RunFolderError(
                    f"{path}: is not whole; the process that wrote it has died; resume the run"
                ) from None
            time.sleep(PAUSE_S)
    return None


def begin(folder: RunFolder, step: int, training: Facts) -> Exactness:
    """Note that this generation takes the steps from ``step`` on. ``training`` are the facts of the
    device that trains; those that differ from the scorers' are kept. Raises FencedError."""
    found = agreed(folder)
    assert found is not None, "this process scores too, and has agreed"
    facts = dict(found.facts)
    facts |= {f"trainer's {n}": v for n, v in training.items() if facts.get(n) != v}
    stretches = [each for each in _stretches(folder.path) if each.step < step]
    if step and not stretches:
        logging.warning(
            "%s: does not say on what hardware its steps before %d were taken, so it cannot be"
            " compared",
            folder.path,
            step,
        )
    stretches.append(_Stretch(step, folder.generation, facts))
    text = "".join(json.dumps(asdict(each)) + "\n" for each in stretches)
    put(folder, folder.path / FOLDER / STEPS, lambda beside: beside.write_text(text, "utf-8"))
    return exactness(folder.path)


def exactness(path: Path) -> Exactness:
    """Whether the steps of the run in a folder were all taken on hardware of one kind."""
    stretches = _stretches(path)
    for before, now in pairwise(stretches):
        if differs := difference(now.facts, before.facts):
            return Exactness(False, f"resumed at step {now.step} on other hardware: {differs}")
    if not stretches or stretches[0].step:
        return Exactness(None, "the hardware of its first steps is not known")
    return Exactness(True)


def _stretches(path: Path) -> list[_Stretch]:
    file = path / FOLDER / STEPS
    if not file.exists():
        return []
    return [_Stretch(**json.loads(line)) for line in file.read_text("utf-8").splitlines()]


def _place(folder: RunFolder) -> Path:
    return folder.path / FOLDER / f"{folder.generation}.json"
