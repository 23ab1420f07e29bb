"""Snapshots within one process: the tensors themselves."""

from __future__ import annotations

import threading

from rhoselect.errors import SnapshotGoneError
from rhoselect.types import Snapshot


class LocalStore:
    """A dictionary under a condition."""

    def __init__(self) -> None:
        self._kept: dict[int, Snapshot] = {}
        self._below = 0
        self._changed = threading.Condition()

    def publish(self, snapshot: Snapshot) -> None:
        with self._changed:
            self._kept[snapshot.version] = snapshot
            self._changed.notify_all()

    def get(self, version: int, timeout_s: float) -> Snapshot | None:
        with self._changed:
            self._changed.wait_for(
                lambda: version in self._kept or version < self._below, timeout_s
            )
            if version < self._below:
                raise SnapshotGoneError(f"snapshot {version}: retired, oldest is {self._below}")
            return self._kept.get(version)

    def retire(self, below: int) -> None:
        with self._changed:
            self._below = max(self._below, below)
            self._kept = {v: s for v, s in self._kept.items() if v >= below}
            self._changed.notify_all()

    def close(self) -> None:
        self._kept.clear()
