"""A look at a run as the Control service sends it."""

from __future__ import annotations

from dataclasses import asdict
from itertools import zip_longest

from rhoselect.config import Config
from rhoselect.metrics import STALENESS_STEPS
from rhoselect.protos import control_pb2 as pb
from rhoselect.runtime.run import Run, Worker


def run_status(run: Run, config: Config) -> pb.RunStatus:
    """Look at a run."""
    folder, status = run.folder, run.status()
    counts = zip_longest(STALENESS_STEPS, status.staleness_counts)
    return pb.RunStatus(
        run_id=folder.run_id,
        generation=folder.generation,
        run_dir=str(folder.path),
        step=status.step,
        steps=config.trainer.steps,
        paused=status.paused,
        loss=status.loss,
        accuracy=status.accuracy,
        metric=status.metric,
        metric_name=status.metric_name,
        lag=config.selection.lag,
        staleness=status.staleness,
        wall_seconds=status.wall_seconds,
        wait_seconds=status.wait_seconds,
        scored_points=status.scored_points,
        staleness_counts=[
            pb.StalenessCount(up_to_steps=steps, points=points)
            for steps, points in counts
            if points is not None
        ],
        queue=pb.QueueStatus(**asdict(run.stats())),
        workers=[_worker_status(worker) for worker in run.workers()],
        inexact=status.inexact,
    )


def _worker_status(worker: Worker) -> pb.WorkerStatus:
    return pb.WorkerStatus(
        slot=worker.slot,
        state=f"WORKER_STATE_{worker.state.upper()}",
        pid=worker.pid,
        restarts=worker.restarts,
        scored_points=worker.scored_points,
        refused=worker.refused,
    )
