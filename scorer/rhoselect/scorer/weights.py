"""The weights in a scorer's replica, replaced piece by piece as a snapshot arrives."""

from __future__ import annotations

import time

from rhoselect.metrics import Metrics
from rhoselect.models.replica import Replica
from rhoselect.selection.interface import State
from rhoselect.snapshots import SnapshotReader
from rhoselect.snapshots.base import Pieces


class Weights:
    """Loads snapshots into ``replica``. ``version`` is the version it holds, or None before the
    first and during a load. ``state`` was published with that version."""

    def __init__(self, replica: Replica, snapshots: SnapshotReader, metrics: Metrics) -> None:
        self._replica, self._snapshots, self._metrics = replica, snapshots, metrics
        self._copied_s = 0.0
        self.version: int | None = None
        self.state: State = {}

    def load(self, version: int, timeout_s: float) -> bool:
        """Load ``version``. Returns False if it is not published within
        ``timeout_s``. Raises SnapshotGoneError if it was retired."""
        if self.version == version:
            return True
        started, copied_s = time.perf_counter(), self._copied_s
        try:
            before, self.version = self.version, None  # until the load is complete
            state = self._snapshots.load(version, self._copy, timeout_s)
        finally:
            waited_s = time.perf_counter() - started - (self._copied_s - copied_s)
            self._metrics.wait_seconds.labels("weights").inc(waited_s)
        if state is None:
            self.version = before
            return False
        self.version, self.state = version, state
        return True

    def _copy(self, pieces: Pieces) -> None:
        """Copy the weights as they arrive. Measures waiting and copying separately."""
        started, fetched_s, fetched_bytes = time.perf_counter(), 0.0, 0

        def measured() -> Pieces:
            nonlocal fetched_s, fetched_bytes
            asked = time.perf_counter()
            for name, tensor in pieces:
                fetched_s += time.perf_counter() - asked
                fetched_bytes += tensor.nbytes
                yield name, tensor
                asked = time.perf_counter()
            fetched_s += time.perf_counter() - asked

        self._replica.load(measured())
        copied_s = time.perf_counter() - started - fetched_s
        self._copied_s += copied_s
        self._metrics.observe_load(fetched_s, copied_s, fetched_bytes)
