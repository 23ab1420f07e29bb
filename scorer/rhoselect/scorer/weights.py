"""The weights in a process's scoring replica, replaced piece by piece as a snapshot arrives. In the
trainer's process the same replica takes the newest weights, for second stages and audits."""

from __future__ import annotations

import time
from collections.abc import Mapping

from torch import Tensor

from rhoselect.metrics import Metrics
from rhoselect.models.replica import Replica
from rhoselect.selection.interface import State
from rhoselect.snapshots import SnapshotReader
from rhoselect.snapshots.base import Pieces


class Weights:
    """Loads weights into ``replica``. ``version`` is that of the snapshot it holds; None before the
    first, during a load and after ``take``. ``state`` was published with that version."""

    def __init__(self, replica: Replica, snapshots: SnapshotReader, metrics: Metrics) -> None:
        self.replica, self._snapshots, self._metrics = replica, snapshots, metrics
        self._copied_s = 0.0
        self._taken: Mapping[str, Tensor] | None = None
        self.version: int | None = None
        self.state: State = {}

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Load these tensors, unless they are what ``take`` loaded last and nothing came since."""
        if self._taken is not tensors:
            self.version = self._taken = None  # until the load is complete
            self.replica.load((name, tensors[name]) for name in self.replica.names)
            self._taken = tensors

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
        device = self.replica.device
        self.version, self.state = version, {n: value.to(device) for n, value in state.items()}
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

        self._taken = None
        self.replica.load(measured())
        copied_s = time.perf_counter() - started - fetched_s
        self._copied_s += copied_s
        self._metrics.observe_load(fetched_s, copied_s, fetched_bytes)
