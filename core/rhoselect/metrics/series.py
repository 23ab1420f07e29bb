"""The series of one process, prefix ``rho_``, base units; docs/metrics.md lists them.

Nothing is labelled by index or version. A process exports what its role has: a trainer, which also
scores, what a scorer has, and more; the driver (``rhoctl`` with its actors) what it sees of them.
All attributes are there in every role, so that the loops need not know it.
"""

from __future__ import annotations

import math
from importlib.metadata import version
from typing import Literal

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from rhoselect.metrics.collectors import StepHistogram, WorkerStates

Role = Literal["trainer", "scorer", "driver"]
STALENESS_STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128)
SNAPSHOT_SECONDS = tuple(0.0001 * 2**i for i in range(18))
STEP_SECONDS = tuple(0.001 * 2**i for i in range(15))


class Series:
    """Every metric as an attribute. Counting takes about a microsecond."""

    def __init__(self, role: Role = "trainer") -> None:
        self.role = role
        registry = self.registry = CollectorRegistry()
        build = Info("rho_build", "Versions of this process.", registry=registry)
        build.info({"version": version("rhoselect"), "torch": torch.__version__})
        started = Gauge(
            "rho_started_timestamp_seconds", "When this process began to count.", registry=registry
        )
        started.set_to_current_time()
        self._of_scoring(registry if role != "driver" else None)
        self._of_snapshots_read(registry if role != "driver" else None)
        trainer = registry if role == "trainer" else None
        self._of_steps(trainer)
        self._of_learning(trainer)
        self._of_selection(trainer)
        self._of_the_queue(trainer)
        self.workers = WorkerStates(registry if role == "driver" else None)

    def _of_scoring(self, registry: CollectorRegistry | None) -> None:
        self.scored_points = Counter(
            "rho_scored_points", "Candidates scored by a forward.", registry=registry
        )
        self.rejected_points = Counter(
            "rho_rejected_points", "Candidates whose score was NaN or infinite.", registry=registry
        )
        self.claims = Counter("rho_claims", "Tickets claimed.", registry=registry)
        self.pushes = Counter(
            "rho_pushes",
            "Chunks pushed: accepted, or ignored (done already, or too late).",
            ["outcome"],
            registry=registry,
        )
        self.busy_seconds = Counter(
            "rho_busy_seconds",
            "Seconds of work: read, load, forward, score, push; train, publish, refine, audit,"
            " evaluate, checkpoint. Reading and pushing overlap with forwards; of a GPU forward and"
            " train are its own time.",
            ["phase"],
            registry=registry,
        )
        self.wait_seconds = Counter(
            "rho_wait_seconds",
            "Seconds of waiting for a window (the trainer), a ticket, weights or data.",
            ["reason"],
            registry=registry,
        )
        for outcome in ("accepted", "ignored"):
            self.pushes.labels(outcome)
        for reason in ("window", "ticket", "weights", "data"):
            self.wait_seconds.labels(reason)

    def _of_snapshots_read(self, registry: CollectorRegistry | None) -> None:
        self.fetch_seconds = Histogram(
            "rho_snapshot_fetch_seconds",
            "Seconds of waiting for the bytes of a snapshot that exists.",
            buckets=SNAPSHOT_SECONDS,
            registry=registry,
        )
        self.swap_seconds = Histogram(
            "rho_snapshot_swap_seconds",
            "Seconds to copy a snapshot into the replica.",
            buckets=SNAPSHOT_SECONDS,
            registry=registry,
        )
        self.fetch_bytes = Counter(
            "rho_snapshot_fetch_bytes", "Bytes of weights loaded to score.", registry=registry
        )

    def _of_steps(self, registry: CollectorRegistry | None) -> None:
        self.publish_seconds = Histogram(
            "rho_snapshot_publish_seconds",
            "Seconds to write a snapshot; on a GPU with the rest of the step that computes it.",
            buckets=SNAPSHOT_SECONDS,
            registry=registry,
        )
        self.publish_bytes = Counter(
            "rho_snapshot_publish_bytes", "Bytes of weights published.", registry=registry
        )
        self.step_seconds = Histogram(
            "rho_step_seconds",
            "Seconds per step, waits included.",
            buckets=STEP_SECONDS,
            registry=registry,
        )
        self.last_step = Gauge("rho_last_step", "Optimizer steps completed.", registry=registry)
        self.last_step_time = Gauge(
            "rho_last_step_timestamp_seconds",
            "When the last step ended; 0 before one.",
            registry=registry,
        )
        self.last_checkpoint_time = Gauge(
            "rho_last_checkpoint_timestamp_seconds",
            "When the last checkpoint was written; 0 before one.",
            registry=registry,
        )
        self.generation = Gauge(
            "rho_trainer_generation", "1 plus the number of resumes.", registry=registry
        )
        self.generation.set(math.nan)  # until the trainer is built: 0 would look like another one
        self.fenced_calls = Counter(
            "rho_fenced_calls", "Writes refused because a newer trainer exists.", registry=registry
        )

    def _of_learning(self, registry: CollectorRegistry | None) -> None:
        self.loss = Gauge("rho_train_loss", "Mean loss of the last batch.", registry=registry)
        self.accuracy = Gauge(
            "rho_test_accuracy",
            "Accuracy on the test split at the last evaluation.",
            registry=registry,
        )
        self.metric = Gauge(
            "rho_test_metric",
            "The task's main figure on the test split at the last evaluation.",
            registry=registry,
        )

    def _of_selection(self, registry: CollectorRegistry | None) -> None:
        self.staleness = StepHistogram(
            "rho_selected_staleness_steps",
            "Age in steps of the weights that scored a selected point, when it was consumed.",
            STALENESS_STEPS,
            registry,
        )
        self.last_staleness = Gauge(
            "rho_last_staleness_steps", "That age for the last batch.", registry=registry
        )
        self.staleness_bound = Gauge(
            "rho_staleness_bound_steps",
            "The greatest age that the configuration allows.",
            registry=registry,
        )
        self.selection_ratio = Gauge(
            "rho_selection_ratio", "Points trained on per candidate drawn.", registry=registry
        )
        about = (
            ("rank_agreement", "Rank correlation of stale and fresh scores."),
            ("topk_overlap", "Share of the fresh top n_b that a stale choice finds."),
            ("captured", "Share of a fresh choice's gain that a stale choice has."),
        )
        self.audits = {
            name: Gauge(f"rho_audit_{name}_ratio", text, ["lag"], registry=registry)
            for name, text in about
        }

    def _of_the_queue(self, registry: CollectorRegistry | None) -> None:
        self.reclaimed = Counter(
            "rho_expired_leases",
            "Tickets handed out again after their lease expired.",
            registry=registry,
        )
        self.queue_points = Gauge(
            "rho_queue_points", "Points held by the queue, read once a second.", registry=registry
        )
        self.queue_tickets = Gauge(
            "rho_queue_tickets", "Tickets waiting, and leased.", ["state"], registry=registry
        )
        self.queue_oldest_version = Gauge(
            "rho_queue_oldest_version",
            "Oldest weights that an open window waits for, or a queued point has.",
            registry=registry,
        )
        self.queue_server_bytes = Gauge(
            "rho_queue_server_bytes", "Memory that the queue server uses.", registry=registry
        )
        self.queue_server_limit_bytes = Gauge(
            "rho_queue_server_limit_bytes",
            "Memory limit of the queue server; 0: none.",
            registry=registry,
        )
