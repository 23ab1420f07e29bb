"""The contract of a snapshot store, for every transport (one test suite holds them to it)."""

from __future__ import annotations

from typing import Protocol

from rhoselect.types import Snapshot


class SnapshotStore(Protocol):
    """Immutable snapshots by version. One writer (the trainer), any number of readers."""

    def publish(self, snapshot: Snapshot) -> None:
        """Make a snapshot available and wake its waiting readers."""
        ...

    def get(self, version: int, timeout_s: float) -> Snapshot | None:
        """Exactly ``version``; None if it was not published within ``timeout_s``.

        Raises SnapshotGoneError once it was retired: no open window needs it any more.
        """
        ...

    def retire(self, below: int) -> None:
        """Forget the versions below ``below``."""
        ...

    def close(self) -> None:
        """Release what this end holds; the writer's end takes the snapshots with it."""
        ...
