"""A perceptron whose process can be told to die at a named point of the protocol.

Whoever comes by a point takes its file out of the folder $RHO_CHAOS_POINTS, if there is one, and
kills itself. A configuration names the factory, so that every process of a run comes by here. A
training step takes SLOW_S longer while the folder has a file "slow": a short run lasts longer.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from rhoselect import files, models
from rhoselect.scorer.pusher import Pusher
from rhoselect.snapshots.shm import SharedMemoryStore
from rhoselect.trainer.learner import Learner

POINTS: dict[str, tuple[Any, str, str]] = {
    "between claim and push": (Pusher, "submit", ""),
    "in mid-publish": (SharedMemoryStore, "_advance", ""),
    "between pop and step": (Learner, "update", ""),
    "before a checkpoint's rename": (files, "flush", ".step-"),
}
"""Before a call of this function of this owner, whose first argument has this in its text."""

FOLDER = "RHO_CHAOS_POINTS"
SLOW, SLOW_S = "slow", 0.1


def mlp(**arguments: Any) -> nn.Module:
    """`rhoselect.models.mlp`; the points are in place from now on."""
    folder = Path(os.environ[FOLDER])
    for point, (owner, name, of) in POINTS.items():
        function = getattr(owner, name)
        if not hasattr(function, "__wrapped__"):
            slow = folder / SLOW if owner is Learner else None
            setattr(owner, name, _mortal(function, folder / point, of, slow))
    return models.mlp(**arguments)


def _mortal(
    function: Callable[..., Any], armed: Path, of: str, slow: Path | None
) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        if slow is not None and slow.exists():
            time.sleep(SLOW_S)
        if not of or of in str(arguments[0]):
            with suppress(FileNotFoundError):  # only one process takes it
                armed.rename(armed.with_name(f"{armed.name}.{os.getpid()}"))
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)

    return wrapped
