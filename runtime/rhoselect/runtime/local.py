"""``--workers 0``: the same trainer and scorer in one process, with memory backends and no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rhoselect.compute import keep_memory
from rhoselect.errors import ConfigError
from rhoselect.inputs import RunInputs
from rhoselect.metrics import Metrics
from rhoselect.queue.memory import MemoryQueue
from rhoselect.runtime.run import Watch, Worker
from rhoselect.snapshots.local import LocalStore
from rhoselect.status import Status
from rhoselect.trainer.build import build_trainer, run_trainer
from rhoselect.trainer.control import TrainerControl
from rhoselect.trainer.loop import Trainer
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.types import QueueStats, TopK


@dataclass(frozen=True)
class SerialRun:
    """A ``runtime.run.Run`` without scorers."""

    folder: RunFolder
    control: TrainerControl
    trainer: Trainer
    queue: MemoryQueue
    stores: None = None

    @property
    def latest(self) -> Status:
        """See `Run.latest`."""
        return self.trainer.status

    def status(self) -> Status:
        """See `Run.status`."""
        return self.trainer.look()

    def workers(self) -> list[Worker]:
        """There are no scorers."""
        return []

    def scale(self, workers: int) -> None:
        """Raises ConfigError."""
        raise ConfigError(
            f"workers: got {workers}, but this run was started with --workers 0, in one process;"
            " stop it and resume it with --workers N to have scorers"
        )

    def stats(self) -> QueueStats:
        """See `Run.stats`."""
        return self.queue.stats()

    def peek(self, k: int) -> TopK | None:
        """See `Run.peek`."""
        return self.queue.peek(k)


def run_serial(inputs: RunInputs, folder: RunFolder, watch: Watch) -> dict[str, Any]:
    """Run to the end and return the summary. The trainer scores all windows itself."""
    config = inputs.config
    keep_memory()
    # Where the newest weights alone score, the learner changes them when no window needs them.
    snapshots = LocalStore(lends=config.staleness_bound == 0)
    metrics, control = Metrics(), TrainerControl()
    metrics.serve(config.metrics, folder.path, "trainer")
    queue = MemoryQueue(config.queue.lease_s)
    trainer = build_trainer(inputs, folder, queue, snapshots, metrics, workers=0, control=control)
    with watch(SerialRun(folder, control, trainer, queue)):
        return run_trainer(inputs, folder, trainer, workers=0)
