"""The metrics of one process: counting and serving."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from prometheus_client import Counter

from rhoselect.config.operation import MetricsConfig
from rhoselect.metrics.collectors import WorkerState
from rhoselect.metrics.endpoint import announce, listen
from rhoselect.metrics.series import Role, Series
from rhoselect.types import QueueStats

UnderWay = deque[tuple[Counter, torch.cuda.Event, torch.cuda.Event]]
"""Blocks that a GPU has not finished: the counter of each, its beginning and its end."""


class Seconds:
    """Adds the seconds of a block to ``counter``."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._counter.inc(time.perf_counter() - self._started)


class DeviceSeconds:
    """Adds the seconds that a GPU takes for what a block launches to ``counter``, after it has done
    that: the host goes on long before. ``under_way`` is what it has not done yet."""

    def __init__(self, counter: Counter, device: torch.device, under_way: UnderWay) -> None:
        self._counter, self._under_way = counter, under_way
        self._stream = torch.cuda.current_stream(device)

    def __enter__(self) -> None:
        self._began = self._stream.record_event(_timed())

    def __exit__(self, *error: object) -> None:
        self._under_way.append((self._counter, self._began, self._stream.record_event(_timed())))
        while self._under_way and self._under_way[0][2].query():  # type: ignore[no-untyped-call]
            count_first(self._under_way)


def count_first(under_way: UnderWay) -> None:
    """Add the seconds of the first block, which the GPU has done."""
    counter, began, ended = under_way.popleft()
    counter.inc(began.elapsed_time(ended) / 1e3)


def _timed() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class Metrics(Series):
    """All series of a process."""

    def __init__(self, role: Role = "trainer") -> None:
        super().__init__(role)
        # A chunk is counted in several phases, and a look-up takes longer than counting does.
        self._busy = cache(self.busy_seconds.labels)
        self._under_way: UnderWay = deque()

    def observe_step(self, steps: int, seconds: float, staleness: int, n_b: int, n_B: int) -> None:
        """Count one step. ``steps`` are completed now; the step took ``seconds``, waits included;
        its n_b points were scored with weights ``staleness`` steps old."""
        self.staleness.observe(staleness, n_b)
        self.last_staleness.set(staleness)
        self.step_seconds.observe(seconds)
        self.last_step.set(steps)
        self.last_step_time.set_to_current_time()
        self.selection_ratio.set(n_b / n_B)

    def observe_publish(self, seconds: float, size_bytes: int) -> None:
        """Count a published snapshot."""
        self.busy_seconds.labels("publish").inc(seconds)
        self.publish_seconds.observe(seconds)
        self.publish_bytes.inc(size_bytes)

    def observe_load(self, fetch_s: float, swap_s: float, size_bytes: int) -> None:
        """Count a loaded snapshot: ``fetch_s`` seconds of waiting for its bytes, ``swap_s`` seconds
        of copying them into the replica."""
        self.busy_seconds.labels("load").inc(swap_s)
        self.fetch_seconds.observe(fetch_s)
        self.swap_seconds.observe(swap_s)
        self.fetch_bytes.inc(size_bytes)

    def observe_queue(self, stats: QueueStats) -> None:
        """Set the gauges of the queue."""
        self.queue_points.set(stats.points)
        self.queue_tickets.labels("waiting").set(stats.waiting)
        self.queue_tickets.labels("leased").set(stats.leased)
        self.queue_server_bytes.set(stats.server_bytes)
        self.queue_server_limit_bytes.set(stats.server_limit_bytes)

    def observe_audit(
        self, lag: int, rank_agreement: float, topk_overlap: float, captured: float
    ) -> None:
        """Set the results of an audit of ``lag``."""
        values = (rank_agreement, topk_overlap, captured)
        for gauge, value in zip(self.audits.values(), values, strict=True):
            gauge.labels(str(lag)).set(value)

    def points_scored(self) -> int:
        """Points scored by a forward so far."""
        samples = next(iter(self.scored_points.collect())).samples
        return int(next(s.value for s in samples if s.name.endswith("_total")))

    def staleness_counts(self) -> tuple[int, ...]:
        """Selected points by staleness: one number a bucket of STALENESS_STEPS, then the older."""
        samples = next(iter(self.staleness.collect())).samples
        upto = [int(s.value) for s in samples if s.name.endswith("_bucket")]
        return tuple(b - a for a, b in pairwise([0, *upto]))

    def observe_workers(
        self, states: Mapping[int, WorkerState], restarts: Mapping[int, int]
    ) -> None:
        """Set the state and the number of restarts of the scorer in each slot."""
        self.workers.set(states, restarts)

    def busy(self, phase: str, device: torch.device | None = None) -> Seconds | DeviceSeconds:
        """Count the seconds of a block as work of ``phase``: those of a GPU, if it is launched on
        such a ``device``, which one thread alone may ask for."""
        if device is None or device.type == "cpu":
            return Seconds(self._busy(phase))
        return DeviceSeconds(self._busy(phase), device, self._under_way)

    def busy_by_phase(self) -> dict[str, float]:
        """Seconds at work by phase so far. Waits for a GPU that is at work."""
        while self._under_way:
            self._under_way[0][2].synchronize()
            count_first(self._under_way)
        samples = next(iter(self.busy_seconds.collect())).samples
        return {s.labels["phase"]: s.value for s in samples if s.name.endswith("_total")}

    def waiting(self, reason: str) -> Seconds:
        """Count the seconds of a block as waiting for ``reason``."""
        return Seconds(self.wait_seconds.labels(reason))

    def serve(self, config: MetricsConfig, run: Path, worker: str) -> str | None:
        """Serve over HTTP and tell Prometheus; returns the address, None if metrics are off.

        ``worker`` is the slot number as text for a scorer, else the role. The trainer's port is
        ``metrics.port``, the others take free ones.
        """
        if config.port < 0:
            return None
        port = config.port if self.role == "trainer" else 0
        address = listen(self.registry, config.host, port)
        announce(config, run, self.role, worker, address)
        return address
