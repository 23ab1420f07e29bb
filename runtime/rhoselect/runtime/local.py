"""``--workers 0``: the same trainer and scorer in one process, with memory backends and no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rhoselect.compute import keep_memory
from rhoselect.inputs import RunInputs
from rhoselect.metrics import Metrics
from rhoselect.queue.memory import MemoryQueue
from rhoselect.ranks import Group
from rhoselect.runtime.run import Watch, Worker, unscalable
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
        raise unscalable(workers)

    def stats(self) -> QueueStats:
        """See `Run.stats`."""
        return self.queue.stats()

    def peek(self, k: int) -> TopK | None:
        """See `Run.peek`."""
        return self.queue.peek(k)


def run_serial(inputs: RunInputs, folder: RunFolder, watch: Watch) -> dict[str, Any]:
    """Run to the end and return the summary. The trainer scores all windows itself."""
    queue = MemoryQueue(inputs.config.queue.lease_s)
    return run_here(inputs, folder, watch, queue, TrainerControl())


def run_here(
    inputs: RunInputs,
    folder: RunFolder,
    watch: Watch,
    queue: MemoryQueue,
    control: TrainerControl,
    group: Group | None = None,
) -> dict[str, Any]:
    """Run a trainer in this process to the end; the lead of ``group`` if there is one."""
    keep_memory()
    # Where the newest weights alone score, the learner changes them when no window needs them.
    snapshots, metrics = LocalStore(lends=inputs.config.staleness_bound == 0), Metrics()
    metrics.serve(inputs.config.metrics, folder.path, "trainer")
    trainer = build_trainer(inputs, folder, queue, snapshots, metrics, 0, control, group)
    with watch(SerialRun(folder, control, trainer, queue)):
        return run_trainer(inputs, folder, trainer, workers=0)
