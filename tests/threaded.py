"""A run over several scorers in threads of this process: exact like one over Ray, and quick."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rhoselect import config as configuration
from rhoselect.inputs import open_inputs
from rhoselect.metrics import Metrics
from rhoselect.queue.memory import MemoryQueue
from rhoselect.scorer.build import build_scorer
from rhoselect.snapshots.local import LocalStore
from rhoselect.trainer.build import build_trainer, run_trainer
from rhoselect.trainer.runfolder import RunFolder


def run(
    config: Path, folder: Path, workers: int, sets: list[str], frozen: int = 0
) -> tuple[dict[str, Any], MemoryQueue]:
    """Train with ``workers`` scorers in threads, and raise what one of them raises. The first
    ``frozen`` scorers claim a ticket each and do nothing more."""
    inputs = open_inputs(configuration.load(config, sets))
    resolved, snapshots = inputs.config, LocalStore()
    queue = MemoryQueue(resolved.queue.lease_s)
    run_folder = RunFolder.create(folder, resolved)
    trainer = build_trainer(inputs, run_folder, queue, snapshots, Metrics(), workers)
    share, stop, failures = resolved.lanes(workers), threading.Event(), []

    def guarded(score: Callable[[threading.Event], object]) -> None:
        try:
            score(stop)
        except BaseException as error:
            failures.append(error)

    scorers = [
        build_scorer(inputs, torch.device("cpu"), slot, share, queue, snapshots, Metrics())
        for slot in range(workers)
    ]
    works = [each.run for each in scorers]
    works[:frozen] = [lambda _, slot=slot: queue.claim(slot, 60.0, share) for slot in range(frozen)]
    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
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
