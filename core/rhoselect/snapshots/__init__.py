"""Weights on their way from the trainer to the scorers. Contract in ``base``.

``local`` keeps them in this process, ``shm`` in the shared memory of one machine, ``ray`` in the
object store of a Ray cluster; ``grpc`` loads them from a run's service.
"""

from rhoselect.snapshots.base import SnapshotReader, SnapshotStore

__all__ = ["SnapshotReader", "SnapshotStore"]
