"""The calibration of ``rhoctl plan``: the parts of a step, measured on a run's own inputs.

Everything measured is what a run uses: the learner and its optimizer, a scoring replica, the data
set, a Redis-protocol server, snapshots in shared memory and other processes that load them. Ray is
left out, because it carries nothing between two steps. Seconds are medians.
"""

from __future__ import annotations

import os
import secrets
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from rhoselect.compute import resolve_device, threads
from rhoselect.inputs import RunInputs
from rhoselect.models.replica import Replica
from rhoselect.planning.messaging import exchange, publishing, queueing, redis_queue
from rhoselect.planning.model import Messages, Parts
from rhoselect.planning.peers import Peer, first_chunk, forwards, scoring_replica, started_peers
from rhoselect.planning.sharing import alone, shares
from rhoselect.queue.memory import MemoryQueue
from rhoselect.snapshots.local import LocalStore
from rhoselect.snapshots.shm import SharedMemoryStore
from rhoselect.trainer.build import new_learner
from rhoselect.trainer.flops import proxy_share
from rhoselect.trainer.learner import Learner
from rhoselect.types import Batch, Positions

STEPS_S, FORWARDS_S = 12.0, 1.5  # what a measurement may take
MOST_STEPS = 60
MOST_PROCESSES = 8  # that compute at once while the slowdown is measured
STAGES = 6  # the last one is the caller's
Note = Callable[[str], None]


@dataclass(frozen=True)
class Calibration:
    """``parts`` of a step; ``forward_share`` (a point's float32 forward over its share of a
    training step), ``precision_factor`` (the scoring precision's time over float32's),
    ``proxy_share`` (the FLOPs of a point under a proxy over those under the model),
    ``snapshot_mb``, and the ``processes`` whose forwards were measured at once."""

    parts: Parts
    forward_share: float
    precision_factor: float
    snapshot_mb: float
    processes: int
    proxy_share: float = 1.0


def calibrate(inputs: RunInputs, note: Note) -> Calibration:
    """Measure a run that needs forwards, in at most a minute; ``note`` is told each stage.
    Raises UserError for a queue server that cannot be used, RunError if another process fails.
    """
    config, plan = inputs.config, inputs.plan
    known = {**_keys(inputs), "share_s": shares(inputs)}
    learner = new_learner(inputs, resolve_device(config.trainer.device, "trainer.device"))
    target = learner if learner.scoring is learner else new_learner(alone(inputs), learner.device)
    replica = scoring_replica(inputs)
    chunk = first_chunk(inputs, replica.device)
    cores = _cores(config.scorer.threads, replica)
    processes = min(cores or 1, plan.chunks, MOST_PROCESSES)
    shared = SharedMemoryStore.new_folder(secrets.token_hex(8), 0)
    with redis_queue(inputs) as queue, threads(config.scorer.threads):
        note("starting other processes")
        with started_peers(inputs, shared, max(1, processes - 1)) as (others, start_s):
            note("training steps, reads and forwards")
            steps = _steps(inputs, target, learner.scoring, replica)
            known["rescore_s"] = _rescoring(inputs, replica, chunk)
            wide_s = _wide(inputs, chunk) or steps.forward_s
            note(f"forwards in {processes} processes at once")
            slowdown = _slowdown(replica, chunk, others[: processes - 1])
            note("weights and gradients, to another process")
            with closing(SharedMemoryStore(shared, writer=True)) as store:
                between_s, load_s = publishing(inputs, learner, replica, store, others[0])
            known["exchange"] = exchange(inputs, learner, others[0])
        note("the queue")
        between = Messages(between_s, *queueing(inputs, replica, chunk, queue))
        within = _within(inputs, learner, replica, chunk)
    known |= {"within": within, "between": between, "cores": cores, "slowdown": slowdown}
    parts = Parts(**known, **vars(steps), load_s=load_s, start_s=start_s)
    share = (wide_s / plan.chunk) / (steps.train_s / config.selection.n_b)
    precision, megabytes = steps.forward_s / wide_s, _megabytes(replica)
    proxy = proxy_share(inputs.task, learner, chunk)
    return Calibration(parts, share, precision, megabytes, processes, proxy)


def _keys(inputs: RunInputs) -> dict[str, Any]:
    """What the configuration says of a step."""
    config = inputs.config
    return {
        "chunks": inputs.plan.chunks,
        "prefetch": config.scorer.prefetch,
        "trainer_scores": config.trainer.scores,
        "steps": config.trainer.steps,
    }


def _within(inputs: RunInputs, learner: Learner, replica: Replica, chunk: Batch) -> Messages:
    """What messages cost where one process does everything."""
    publish_s, _ = publishing(inputs, learner, replica, LocalStore(), None)
    memory = MemoryQueue(inputs.config.queue.lease_s)
    return Messages(publish_s, *queueing(inputs, replica, chunk, memory))


def _megabytes(replica: Replica) -> float:
    """Size of a snapshot: of what travels, in the precision that scores."""
    return sum(tensor.nbytes for tensor in replica.layout.values()) / 1e6


@dataclass(frozen=True)
class _Steps:
    """Seconds of a training step and of a proxy's, of reading a chunk and of its forward, which is
    on a core for ``forward_cpu_s`` of them."""

    train_s: float
    proxy_s: float
    read_s: float
    forward_s: float
    forward_cpu_s: float


def _cores(count: int, replica: Replica) -> int | None:
    """How many scorers of ``count`` threads this machine's cores can run at once; None if they run
    on GPUs."""
    if replica.device.type != "cpu":
        return None
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return max(1, cores // count)


def _steps(inputs: RunInputs, learner: Learner, scoring: Learner, replica: Replica) -> _Steps:
    """Reads, forwards and training steps in turn, as in a run: each finds the caches as the others
    left them. ``scoring`` is the learner, or a proxy's. Medians of the last two thirds."""
    config, plan, points = inputs.config, inputs.plan, inputs.train
    times: list[tuple[float, ...]] = []

    def read(positions: Positions, where: Learner | Replica) -> Batch:
        indices = plan.indices(positions)
        return points.read(indices, where.device, plan.epochs(positions))

    began = time.perf_counter()
    while len(times) < MOST_STEPS and time.perf_counter() - began < STEPS_S:
        step, started = len(times), time.perf_counter()
        chunk = read(plan.chunk_positions(step, 0), replica)
        have_read, cpu_s = time.perf_counter(), time.process_time()
        replica(chunk).losses.sum().item()
        scored, cpu_s = time.perf_counter(), time.process_time() - cpu_s
        with threads(config.trainer.threads):
            batch = read(plan.window(step)[: config.selection.n_b], learner)
            learner.update(batch, None, step).loss.item()
            trained = learnt = time.perf_counter()
            if scoring is not learner:
                scoring.update(batch, None, step).loss.item()
                learnt = time.perf_counter()
        forward_s, read_s = scored - have_read, have_read - started
        on_core_s = min(forward_s, cpu_s / config.scorer.threads)
        times.append((trained - scored, learnt - trained, read_s, forward_s, on_core_s))
    return _Steps(*map(statistics.median, zip(*times[len(times) // 3 :], strict=True)))


def _rescoring(inputs: RunInputs, replica: Replica, chunk: Batch) -> float:
    """Seconds in which the trainer re-scores a shortlist at lag 0; 0 without one."""
    config = inputs.config
    if config.k == 1 or config.staleness_bound or config.scorers_rescore:
        return 0.0
    again = inputs.new_target_replica(replica.device)
    chunks = -(-config.k * config.selection.n_b // config.selection.chunk)
    return chunks * forwards(again, chunk, FORWARDS_S)


def _wide(inputs: RunInputs, chunk: Batch) -> float | None:
    """Seconds of a chunk's forward in float32; None if that is what scorers do anyway."""
    scorer = inputs.config.scorer
    if scorer.precision == "fp32" and scorer.quantize == "none":
        return None
    wide = scoring_replica(inputs, precision="fp32", quantize="none")
    return forwards(wide, chunk, FORWARDS_S)


def _slowdown(replica: Replica, chunk: Batch, others: list[Peer]) -> float:
    """How much longer a forward takes while ``others`` compute, too."""
    if not others:
        return 1.0
    alone_s = forwards(replica, chunk, FORWARDS_S)
    for other in others:
        other.tell(task="forwards", seconds=FORWARDS_S)
    times = [forwards(replica, chunk, FORWARDS_S)]
    times += [other.answer() for other in others]
    return max(1.0, statistics.mean(times) / alone_s)
