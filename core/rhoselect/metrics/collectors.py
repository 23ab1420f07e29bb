"""Metrics that the client library has no class for: read when they are scraped."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Literal, get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    HistogramMetricFamily,
    StateSetMetricFamily,
)
from prometheus_client.registry import Collector

WorkerState = Literal["starting", "running", "silent", "refused"]
"""Starting: it has not answered yet. Silent: it ran and does not answer; it is dead, frozen, cut
off or being started again. Refused: its hardware gives other bits; it does not score."""
WORKER_STATES: tuple[WorkerState, ...] = get_args(WorkerState)


class StepHistogram(Collector):
    """A histogram of whole steps that takes a batch of equal values at once: a batch has thousands
    of points, and all were scored with the same weights."""

    def __init__(
        self,
        name: str,
        documentation: str,
        bounds: Sequence[int],
        registry: CollectorRegistry | None,
    ) -> None:
        self._name, self._documentation, self._bounds = name, documentation, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0
        if registry is not None:
            registry.register(self)

    def observe(self, value: int, times: int) -> None:
        """Count ``value`` as often as ``times``."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def collect(self) -> Iterator[HistogramMetricFamily]:
        bounds = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(
            self._name, self._documentation, buckets=buckets, sum_value=self._sum
        )


class WorkerStates(Collector):
    """``rho_worker_state`` and ``rho_worker_restarts_total`` by slot. Slots come and go."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        self._states: Mapping[int, WorkerState] = {}
        self._restarts: Mapping[int, int] = {}
        if registry is not None:
            registry.register(self)

    def set(self, states: Mapping[int, WorkerState], restarts: Mapping[int, int]) -> None:
        """Replace what is known."""
        self._states, self._restarts = dict(states), dict(restarts)

    def collect(self) -> Iterator[StateSetMetricFamily | CounterMetricFamily]:
        states = StateSetMetricFamily(
            "rho_worker_state",
            "State of the scorer in a slot: starting, running, silent, refused.",
            labels=["slot"],
        )
        for slot, state in self._states.items():
            states.add_metric([str(slot)], {each: each == state for each in WORKER_STATES})
        yield states
        restarts = CounterMetricFamily(
            "rho_worker_restarts", "Restarts of the scorer in a slot.", labels=["slot"]
        )
        for slot, count in self._restarts.items():
            restarts.add_metric([str(slot)], count)
        yield restarts
