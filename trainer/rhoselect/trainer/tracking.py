"""Where a run's figures are shown while it goes on, beside its own records: ``trainer.tracker``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from rhoselect.errors import ConfigError
from rhoselect.importing import load_object
from rhoselect.trainer.records import StepRecord
from rhoselect.trainer.trackers import MLflow, WandB


class Tracker(Protocol):
    """Takes figures in the order of steps. A class of the user's is called as Class(folder, step),
    with the run folder and the steps taken before."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Show ``values`` after ``step`` optimizer steps; also after ``close``."""
        ...

    def close(self) -> None:
        """Write what is not written yet. It may be repeated."""
        ...


class NoTracker:
    """Shows nothing."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class TensorBoard:
    """Event files in the run folder's ``tensorboard/``. Those of a resumed run hide what was shown
    of later steps."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        made: Any = SummaryWriter
        self._writer = made(str(folder / "tensorboard"), purge_step=step or None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a scalar for each value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write and close the file; a later ``log`` begins another one."""
        self._writer.close()


BUILT_IN = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}
"""By the name of its package, which is that of its extra, too."""


def check_tracker(name: str) -> None:
    """Raise ConfigError for a tracker that is not there, or whose package is not. Call it before a
    run folder is made."""
    if name in BUILT_IN and find_spec(name) is None:
        raise ConfigError(
            f"trainer.tracker: got {name!r} and no package {name!r}, which it needs; install it"
            f" with pip install 'rhoselect[{name}]'"
        )
    if name and name not in BUILT_IN and ":" not in name:
        raise ConfigError(
            f"trainer.tracker: got {name!r}, allowed {', '.join(map(repr, BUILT_IN))}, or"
            " 'module:Class' of your own"
        )
    if ":" in name:
        load_object(name, "trainer.tracker")


def open_tracker(name: str, folder: Path, step: int) -> Tracker:
    """The tracker of a run folder, from ``step`` steps on. Raises ConfigError."""
    if not name:
        return NoTracker()
    check_tracker(name)
    maker: Any = BUILT_IN.get(name) or load_object(name, "trainer.tracker")
    made: Tracker = maker(folder, step)
    return made


def figures_of(row: StepRecord) -> dict[str, float]:
    """What is shown of a step."""
    found = {
        "train/loss": row.loss,
        "train/wrong_labels": row.corrupted_share,
        "selection/staleness_steps": row.staleness,
        "selection/wait_ms": row.wait_ms,
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def figures_of_test(values: Mapping[str, Any]) -> dict[str, float]:
    """What is shown of an evaluation, or of what a loop logged."""
    return {f"test/{n}": float(v) for n, v in values.items() if isinstance(v, int | float)}
