"""The hardware and releases of a run. All processes of one generation that score are alike, and the
run folder has what each generation had, so that a resume on other hardware is told.

hardware/3.json        facts of the process that scored first in generation 3; others must have them
hardware/steps.jsonl   one line a generation: its facts, and the step from which its steps count
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from pydantic import TypeAdapter

from rhoselect.errors import RunFolderError
from rhoselect.hardware import PARTS, PROBE, SUMS, Facts, check_alike, difference, differing
from rhoselect.trainer.runfolder import RunFolder, put, writing

FOLDER = "hardware"
STEPS = "steps.jsonl"
TRAINERS = "trainer's "
"""Before the name of a fact in which the device that trains differs from those that score."""
WRITTEN_S = 10.0  # for another process to write its few facts, on a file system without links
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


_AGREED, _STRETCH = TypeAdapter(Agreed), TypeAdapter(_Stretch)


def agree(folder: RunFolder, who: str, facts: Facts) -> None:
    """Call this in every process that scores, before it does, with its ``facts``. Raises
    HardwareError unless they are those of the first process of the generation that called it,
    RunFolderError if those cannot be read, StorageError if its own cannot be written."""
    path = _place(folder)
    if path.parent.exists() and not path.parent.is_dir():
        raise RunFolderError(
            f"{path.parent}: is a file, allowed a folder; rename it, then resume the run"
        )
    with writing(folder):
        path.parent.mkdir(exist_ok=True)
        if _is_first(path, json.dumps(asdict(Agreed(who, facts)))):
            return
    first = agreed(folder)
    assert first is not None, "it exists"
    check_alike(who, facts, first.who, first.facts)


def _is_first(path: Path, text: str) -> bool:
    """Make the file, whole, unless there is one already."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        beside.write_text(text, "utf-8")
        try:
            os.link(beside, path)
        except FileExistsError:
            return False
        except OSError:  # no links on this file system
            return _create(path, text)
        return True
    finally:
        beside.unlink(missing_ok=True)


def _create(path: Path, text: str) -> bool:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


def agreed(folder: RunFolder) -> Agreed | None:
    """What the processes of the generation agree on; None before the first of them is ready. Raises
    RunFolderError if it cannot be read."""
    path, deadline = _place(folder), time.monotonic() + WRITTEN_S
    while path.exists():
        try:
            return _AGREED.validate_json(path.read_bytes())
        except (OSError, ValueError):  # it may be being written
            if time.monotonic() > deadline:
                raise RunFolderError(
                    f"{path}: cannot be read, allowed the facts of the process that scored first in"
                    f" generation {folder.generation}; resume the run, as a new generation"
                ) from None
            time.sleep(PAUSE_S)
    return None


def begin(folder: RunFolder, step: int, training: Facts) -> Exactness:
    """Note that this generation takes the steps from ``step`` on. ``training`` are the facts of the
    device that trains; those that differ from the scorers' are kept. Raises FencedError."""
    found = agreed(folder)
    assert found is not None, "a process that scores has agreed"
    facts = dict(found.facts)
    facts |= {TRAINERS + n: v for n, v in training.items() if facts.get(n) != v}
    stretches = [each for each in _stretches(folder.path) if each.step < step]
    if step and not stretches:
        logging.warning(
            "%s: does not say on what hardware the steps before %d were taken, so it cannot be"
            " compared",
            folder.path / FOLDER / STEPS,
            step,
        )
    stretches.append(_Stretch(step, folder.generation, facts))
    text = "".join(json.dumps(asdict(each)) + "\n" for each in stretches)
    put(folder, folder.path / FOLDER / STEPS, lambda beside: beside.write_text(text, "utf-8"))
    return exactness(folder.path)


def begun(folder: RunFolder) -> bool:
    """Whether this generation has begun to take steps."""
    return any(each.generation == folder.generation for each in _stretches(folder.path))


def exactness(path: Path) -> Exactness:
    """Whether the steps of the run in a folder were all taken on hardware of one kind."""
    stretches = _stretches(path)
    for before, now in pairwise(stretches):
        if differs := difference(now.facts, before.facts):
            how, names = "on other hardware", differing(now.facts, before.facts)
            if names == [TRAINERS + PARTS]:
                how = "with the model divided among another number of devices"
            if names == [TRAINERS + SUMS]:
                how = "with gradients summed by another number of devices"
            if names == [PROBE]:
                how = (
                    "on the same hardware and releases, but the model's first weights or kernels"
                    " give other losses, as where model.factory draws from another random generator"
                )
            return Exactness(False, f"resumed at step {now.step} {how}: {differs}")
    if not stretches or stretches[0].step:
        return Exactness(None, "the hardware of its first steps is not known")
    return Exactness(True)


def _stretches(path: Path) -> list[_Stretch]:
    """None if they cannot be read: the checkpoints are sound without, and the run goes on."""
    try:
        lines = (path / FOLDER / STEPS).read_bytes().splitlines()
        return [_STRETCH.validate_json(line) for line in lines]
    except (OSError, ValueError):
        return []


def _place(folder: RunFolder) -> Path:
    return folder.path / FOLDER / f"{folder.generation}.json"
