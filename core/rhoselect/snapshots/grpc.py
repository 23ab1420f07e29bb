"""Snapshots from a gRPC server stream, for scorers outside the run's cluster.

This is a reader's end. The trainer publishes into another store, and the service
rhoselect.v1.Snapshots reads from that one. A stream that breaks off, or whose checksum differs, is
requested again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
from torch import Tensor

from rhoselect.errors import FencedError, RunError, ServiceError, SnapshotGoneError
from rhoselect.protos import selection_pb2, snapshots_pb2
from rhoselect.protos.snapshots_pb2_grpc import SnapshotsStub
from rhoselect.snapshots.base import Pieces
from rhoselect.snapshots.codec import Decoded, decode

LONGEST_WAIT_S = 5.0  # longest wait of one call, so that a server that ends need not wait longer
ANSWER_S = 30.0  # longest duration of a call, beyond its wait
TRIES = 3  # failed calls in one load after which it fails


class GrpcStore:
    """A `SnapshotReader` over the caller's ``channel``, for one trainer generation.

    Calls raise ServiceError when the service cannot be reached, FencedError when it serves another
    generation.
    """

    def __init__(self, channel: grpc.Channel, run_id: str, generation: int) -> None:
        self._stub = SnapshotsStub(channel)  # type: ignore[no-untyped-call]
        self._session = selection_pb2.Session(run_id=run_id, generation=generation)

    def load(
        self, version: int, into: Callable[[Pieces], None], timeout_s: float
    ) -> dict[str, Tensor] | None:
        """See `SnapshotReader.load`."""
        decoded = self._fetch_until(version, timeout_s)
        if decoded is None:
            return None
        found, weights, state = decoded
        if found != version:
            raise RunError(f"snapshot {version}: the service sent {found}")
        into(iter(weights.items()))
        return {name: tensor.clone() for name, tensor in state.items()}

    def _fetch(self, version: int, wait_s: float) -> Decoded | None:
        """The snapshot; None if it is not published within ``wait_s``. Raises ServiceError if it
        arrives damaged, so that the caller requests it again."""
        request = snapshots_pb2.LoadRequest(
            session=self._session, version=version, timeout_seconds=wait_s
        )
        with _translated(f"snapshot {version}"):
            parts = self._stub.Load(request, timeout=wait_s + ANSWER_S)
            data = b"".join(part.chunk for part in parts)
        if not data:
            return None
        try:
            return decode(data)
        except RunError as error:
            raise ServiceError(str(error)) from None

    def _fetch_until(self, version: int, timeout_s: float) -> Decoded | None:
        """Fetch again until the snapshot comes; None after ``timeout_s``. Raises ServiceError after
        `TRIES` failed calls."""
        deadline, broken = time.monotonic() + timeout_s, 0
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            try:
                found = self._fetch(version, min(left_s, LONGEST_WAIT_S))
            except ServiceError:
                broken += 1
                if broken == TRIES:
                    raise
                continue
            if found is not None or left_s <= LONGEST_WAIT_S:
                return found

    def close(self) -> None:
        """Nothing to release: the caller owns the channel."""


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Raise gRPC errors as ours; ``what`` begins the message."""
    try:
        yield
    except grpc.RpcError as error:
        details = f"{what}: {error.details()}"
        if error.code() == grpc.StatusCode.NOT_FOUND:
            raise SnapshotGoneError(details) from None
        if error.code() == grpc.StatusCode.ABORTED:
            raise FencedError(details) from None
        raise ServiceError(f"{details} ({error.code().name})") from None
