"""``--workers 0``: the same trainer and scorer in one process, with memory backends and no Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rhoselect.compute import keep_memory
from rhoselect.launch.wiring import Prepared, build_trainer, run_trainer
from rhoselect.metrics import Metrics
from rhoselect.queue.memory import MemoryQueue
from rhoselect.queue.memory_stream import MemoryStream
from rhoselect.snapshots.local import LocalStore
from rhoselect.trainer.ground import Status
from rhoselect.trainer.runfolder import RunFolder

Watch = Callable[[Callable[[], Status]], None]
"""Given, once, the function that tells the run's status at any time from any thread."""


def run_serial(prepared: Prepared, folder: RunFolder, watch: Watch) -> dict[str, Any]:
    """Run to the end and return the summary. While the trainer would wait, it scores."""
    config = prepared.config
    keep_memory()
    snapshots, metrics = LocalStore(), Metrics()
    metrics.serve(config.metrics, folder.path, "trainer")
    queue: MemoryQueue | MemoryStream = MemoryQueue(config.queue.lease_s)
    if config.selection.mode == "stream":
        stream, chunks = config.stream, prepared.plan.chunks
        queue = MemoryStream(chunks, config.capacity, stream.ahead, stream.max_age)
    trainer = build_trainer(prepared, folder, queue, snapshots, metrics, workers=0)
    watch(lambda: trainer.status)
    return run_trainer(prepared, folder, trainer, workers=0)
