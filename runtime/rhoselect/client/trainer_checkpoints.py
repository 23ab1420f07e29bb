"""The state of a selection in the checkpoints of transformers' Trainer.

A process may end at any moment. The Trainer writes ``trainer_state.json`` as the last file of a
checkpoint. The state of the selection is written first, so a folder with both is whole.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rhoselect.errors import ConfigError

STATE = "selection.pt"
"""The file of a checkpoint of the Trainer that has the state of its selection."""
LAST = "trainer_state.json"
OTHERS = ("optimizer.pt", "scheduler.pt")


def begin(folder: Path, state: Mapping[str, Any] | None) -> None:
    """Write ``state`` into a checkpoint that the Trainer is about to write, also over another."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LAST).unlink(missing_ok=True)  # until the new one is whole
    (folder / STATE).unlink(missing_ok=True)
    if state is not None:
        torch.save(state, folder / f"{STATE}.new")
        os.replace(folder / f"{STATE}.new", folder / STATE)


def chosen(given: Any, output_dir: str) -> Any:
    """The checkpoint that ``resume_from_checkpoint`` means: of True the newest whole one. Warns of
    newer ones that are not. True if there are none, of which the Trainer complains."""
    if given is not True:
        return given
    found = _checkpoints(Path(output_dir))
    if not found:
        return True
    newest, whole = found[0], _newest_whole(found[0])
    if whole not in (newest, None):
        warnings.warn(
            f"resume_from_checkpoint: {newest} has no whole {_lacks(newest)}, as the process ended"
            f" while it was written; training goes on from {whole}",
            stacklevel=3,
        )
    return str(whole or newest)


def state_in(checkpoint: Any) -> Any:
    """The state of the selection in a checkpoint's folder, 0 for none. Raises ConfigError."""
    if not checkpoint or checkpoint is True:  # of True without checkpoints the Trainer complains
        return 0
    folder = Path(checkpoint)
    if lost := _lacks(folder):
        whole = _newest_whole(folder)
        advice = f"resume from {whole}" if whole else "begin a new run"
        raise ConfigError(
            f"resume_from_checkpoint: got {str(checkpoint)!r}, which has no {lost}, allowed a"
            f" checkpoint of a SelectionTrainer that it wrote to the end; {advice}"
        )
    return torch.load(folder / STATE, weights_only=True)


def _lacks(folder: Path) -> str:
    """The name of a file without which no training can go on from a checkpoint, "" of a whole
    one."""
    for name in (STATE, *OTHERS, LAST):
        if not (folder / name).is_file():
            return name
    try:
        json.loads((folder / LAST).read_text("utf-8"))
    except ValueError:
        return LAST
    return ""


def _newest_whole(other: Path) -> Path | None:
    """The newest whole checkpoint beside ``other``."""
    return next((each for each in _checkpoints(other.parent) if not _lacks(each)), None)


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first."""
    found = {
        int(number): path
        for path in folder.glob("checkpoint-*")
        if (number := path.name.removeprefix("checkpoint-")).isdigit() and path.is_dir()
    }
    return [found[number] for number in sorted(found, reverse=True)]
