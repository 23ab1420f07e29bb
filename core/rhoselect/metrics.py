"""The Prometheus metrics of one process (trainer or scorer), prefix ``rho_``, base units.

Each process keeps a registry of its own and serves it on loopback; nothing is labelled by index or
version. ``worker`` is the slot number as text, "trainer" for the trainer.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, start_http_server

from rhoselect.errors import ConfigError

LOOPBACK = "127.0.0.1"
STALENESS_STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128)


def check_port(port: int) -> None:
    """Raise ConfigError unless a server could listen on this port of loopback."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, max(port, 0)))
    except OSError as error:
        raise ConfigError(
            f"metrics.port: got {port}, which cannot be opened ({error.strerror}); allowed a free"
            " port, 0 to have one chosen or -1 for none"
        ) from None


class Metrics:
    """Every metric, by attribute. Cheap to hold when nobody serves it."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        build = Info("rho_build", "Versions of this process.", registry=registry)
        build.info({"version": version("rhoselect"), "torch": torch.__version__})
        self.scored_points = Counter(
            "rho_scored_points", "Candidates scored by a forward.", registry=registry
        )
        self.rejected_points = Counter(
            "rho_rejected_points", "Candidates whose score was NaN or infinite.", registry=registry
        )
        self.claims = Counter("rho_claims", "Tickets claimed.", registry=registry)
        self.reclaimed = Counter(
            "rho_expired_leases", "Tickets handed out again by the trainer.", registry=registry
        )
        self.pushes = Counter("rho_pushes", "Chunks pushed.", ["outcome"], registry=registry)
        self.busy_seconds = Counter(
            "rho_busy_seconds", "Seconds at work, by phase.", ["phase"], registry=registry
        )
        self.wait_seconds = Counter(
            "rho_wait_seconds", "Seconds of waiting, by reason.", ["reason"], registry=registry
        )
        self.queue_points = Gauge(
            "rho_queue_points", "Points held by the queue.", registry=registry
        )
        self.queue_oldest_version = Gauge(
            "rho_queue_oldest_version",
            "Oldest weights an open window waits for.",
            registry=registry,
        )
        self.staleness = Histogram(
            "rho_selected_staleness_steps",
            "Age of the weights that scored a selected point, when it was consumed.",
            buckets=STALENESS_STEPS,
            registry=registry,
        )
        self.step_seconds = Histogram(
            "rho_step_seconds",
            "Seconds a step, waits included.",
            buckets=[0.001 * 2**i for i in range(15)],
            registry=registry,
        )
        self.snapshot_bytes = Counter(
            "rho_snapshot_publish_bytes", "Bytes of weights published.", registry=registry
        )
        self.last_step = Gauge("rho_last_step", "Optimizer steps completed.", registry=registry)
        self.last_step_time = Gauge(
            "rho_last_step_timestamp_seconds", "When the last step ended.", registry=registry
        )
        self.last_checkpoint_time = Gauge(
            "rho_last_checkpoint_timestamp_seconds", "When it was written.", registry=registry
        )
        self.accuracy = Gauge("rho_test_accuracy", "At the last evaluation.", registry=registry)
        self.lag = Gauge("rho_lag_steps", "Lag in force.", registry=registry)
        about = (
            ("rank_agreement", "Rank correlation of stale and fresh scores."),
            ("topk_overlap", "Share of the fresh top n_b that a stale choice finds."),
            ("captured", "Share of a fresh choice's gain that a stale choice has."),
        )
        self.audits = {
            name: Gauge(f"rho_audit_{name}_ratio", text, ["lag"], registry=registry)
            for name, text in about
        }
        self.selection_ratio = Gauge(
            "rho_selection_ratio", "Points trained on per candidate drawn.", registry=registry
        )

    def observe_step(self, steps: int, seconds: float, staleness: int, n_b: int, n_B: int) -> None:
        """Count one step: ``steps`` are completed now, it took ``seconds`` with its waits."""
        for _ in range(n_b):
            self.staleness.observe(staleness)
        self.step_seconds.observe(seconds)
        self.last_step.set(steps)
        self.last_step_time.set_to_current_time()
        self.selection_ratio.set(n_b / n_B)

    def points_scored(self) -> int:
        """Points scored by a forward so far."""
        samples = next(iter(self.scored_points.collect())).samples
        return int(next(s.value for s in samples if s.name.endswith("_total")))

    def staleness_counts(self) -> tuple[int, ...]:
        """Selected points by staleness: one number a bucket of STALENESS_STEPS, then the older."""
        samples = next(iter(self.staleness.collect())).samples
        upto = [int(s.value) for s in samples if s.name.endswith("_bucket")]
        return tuple(b - a for a, b in pairwise([0, *upto]))

    def observe_audit(
        self, lag: int, rank_agreement: float, topk_overlap: float, captured: float
    ) -> None:
        """Note what an audit found about a lag; lags are few."""
        values = (rank_agreement, topk_overlap, captured)
        for gauge, value in zip(self.audits.values(), values, strict=True):
            gauge.labels(str(lag)).set(value)

    @contextmanager
    def busy(self, phase: str) -> Iterator[None]:
        """Count the seconds of a block as work of ``phase``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.busy_seconds.labels(phase).inc(time.perf_counter() - started)

    def busy_by_phase(self) -> dict[str, float]:
        """Seconds at work by phase so far."""
        samples = next(iter(self.busy_seconds.collect())).samples
        return {s.labels["phase"]: s.value for s in samples if s.name.endswith("_total")}

    @contextmanager
    def waiting(self, reason: str) -> Iterator[None]:
        """Count the seconds of a block as waiting for ``reason``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.wait_seconds.labels(reason).inc(time.perf_counter() - started)

    def serve(self, port: int, worker: str, folder: Path) -> str:
        """Serve on 127.0.0.1 (``port`` 0: a free one) and return the address.

        Also writes ``folder/<worker>.json`` for Prometheus' file service discovery.
        """
        server, _ = start_http_server(port, LOOPBACK, self.registry)
        address = f"{LOOPBACK}:{server.server_port}"
        folder.mkdir(parents=True, exist_ok=True)
        targets = [{"targets": [address], "labels": {"worker": worker}}]
        (folder / f"{worker}.json").write_text(json.dumps(targets))
        return address
