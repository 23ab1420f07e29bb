"""Transports of weights from the trainer to the scorers. The contract is in ``base``.

``local`` keeps snapshots in this process, ``shm`` in the shared memory of one machine, ``ray`` in
the object store of a Ray cluster; ``grpc`` loads them from a run's service.
"""

from rhoselect.snapshots.base import SnapshotReader, SnapshotStore

__all__ = ["SnapshotReader", "SnapshotStore"]
