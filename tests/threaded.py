"""A run over several scorers in threads of this process: exact like one over Ray, and quick."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rhoselect import config as configuration
from rhoselect.inputs import open_inputs
from rhoselect.metrics import Metrics
from rhoselect.queue.memory import MemoryQueue
from rhoselect.queue.memory_stream import MemoryStream
from rhoselect.scorer.build import build_scorer
from rhoselect.selector.windows import lanes
from rhoselect.snapshots.local import LocalStore
from rhoselect.trainer.build import build_trainer, run_trainer
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.types import ChunkScores, Ticket


class CountedStream(MemoryStream):
    """A rolling queue that notes how full it ever was."""

    most = 0

    def push(self, ticket: Ticket, scores: ChunkScores) -> bool:
        counted = super().push(ticket, scores)
        self.most = max(self.most, self.stats().points)
        return counted


def run(
    config: Path, folder: Path, workers: int, sets: list[str]
) -> tuple[dict[str, Any], MemoryQueue | CountedStream]:
    """Train with ``workers`` scorers in threads; whatever one of them raises is raised here."""
    inputs = open_inputs(configuration.load(config, sets))
    resolved, snapshots = inputs.config, LocalStore()
    queue: MemoryQueue | CountedStream = MemoryQueue(lease_s=600)
    if resolved.selection.mode == "stream":
        stream = resolved.stream
        queue = CountedStream(inputs.plan.chunks, resolved.capacity, stream.ahead, stream.max_age)
    run_folder = RunFolder.create(folder, resolved)
    trainer = build_trainer(inputs, run_folder, queue, snapshots, Metrics(), workers)
    share, stop, failures = lanes(resolved, workers), threading.Event(), []

    def guarded(score: Callable[[threading.Event], None]) -> None:
        try:
            score(stop)
        except BaseException as error:
            failures.append(error)

    scorers = [
        build_scorer(inputs, slot, share, queue, snapshots, Metrics()) for slot in range(workers)
    ]
    threads = [threading.Thread(target=guarded, args=(scorer.run,)) for scorer in scorers]
    for thread in threads:
        thread.start()
    try:
        summary = run_trainer(inputs, run_folder, trainer, workers)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, failures
    return summary, queue
