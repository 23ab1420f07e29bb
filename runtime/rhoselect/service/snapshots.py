"""The service rhoselect.v1.Snapshots: a run's snapshots for scorers outside its cluster."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import grpc
from torch import Tensor

from rhoselect.errors import ConfigError, FencedError, UserError
from rhoselect.hardware import Facts, releases
from rhoselect.inputs import RunInputs
from rhoselect.protos import selection_pb2, snapshots_pb2_grpc
from rhoselect.protos import snapshots_pb2 as pb
from rhoselect.queue.base import HELPERS
from rhoselect.runtime.run import Run
from rhoselect.service import blobs
from rhoselect.service.errors import errors_to_status
from rhoselect.service.server import Service
from rhoselect.snapshots import SnapshotReader
from rhoselect.snapshots.base import Pieces
from rhoselect.snapshots.codec import encode
from rhoselect.snapshots.grpc import LONGEST_WAIT_S
from rhoselect.trainer.hardware import agreed

NAME = pb.DESCRIPTOR.services_by_name["Snapshots"].full_name
MOST_WAITING = 256  # concurrent calls; further calls wait for a thread
_T = TypeVar("_T")


class Snapshots(snapshots_pb2_grpc.SnapshotsServicer):
    """Serves the snapshots of ``run``. A version is packed once for all clients.

    It gives each helper (a scorer that attaches) a slot number: see `rhoselect.queue.base.HELPERS`.
    """

    def __init__(self, run: Run, inputs: RunInputs) -> None:
        self._run, self._inputs, folder = run, inputs, run.folder
        self._session = selection_pb2.Session(run_id=folder.run_id, generation=folder.generation)
        self._inputs_sha256 = inputs.sha256  # here, as it may read gigabytes: no call waits for it
        self._helpers = itertools.count()
        self._threads = ThreadPoolExecutor(MOST_WAITING, "snapshots")
        self._idle: list[SnapshotReader] = []  # a reader has one thread at a time
        self._packing = threading.Lock()
        self._packed = -1, bytearray()  # the version packed last, and its bytes

    @property
    def service(self) -> Service:
        """For a ``Host``."""
        return Service(NAME, partial(snapshots_pb2_grpc.add_SnapshotsServicer_to_server, self))

    async def Attach(
        self, request: pb.AttachRequest, context: grpc.aio.ServicerContext
    ) -> pb.AttachResponse:
        async with errors_to_status(context):
            config = self._inputs.config
            self._check_open()
            if request.HasField("slot") and request.slot < HELPERS:
                raise UserError(f"slot: got {request.slot}, allowed the one that Attach gave")
            shares = config.lanes(len(await asyncio.to_thread(self._run.workers)))
            known = request.HasField("slot")
            helper = request.slot // HELPERS - 1 if known else next(self._helpers)
            return pb.AttachResponse(
                session=self._session,
                slot=HELPERS * (helper + 1) + helper % shares,
                lanes=shares,
                facts=await asyncio.to_thread(self._facts),
                config_json=config.model_dump_json(),
                inputs_sha256=self._inputs_sha256,
            )

    async def Load(
        self, request: pb.LoadRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.LoadResponse]:
        async with errors_to_status(context):
            self._check(request.session, request.timeout_seconds)
            look = partial(self._pack, request.version, request.timeout_seconds)
            packed = await self._with_store(look)
            for chunk in blobs.chunks(packed or b""):
                yield pb.LoadResponse(chunk=chunk)

    def _facts(self) -> Facts:
        first = agreed(self._run.folder)
        return releases() if first is None else first.facts

    def close(self) -> None:
        """Close the readers. Call this after the server has stopped."""
        self._threads.shutdown()
        while self._idle:
            self._idle.pop().close()

    def _check_open(self) -> None:
        """Raise ConfigError if scorers on other machines cannot reach the run's queue."""
        if self._inputs.config.queue.url == "embedded" or self._run.stores is None:
            raise ConfigError(
                "this run has no queue that a scorer outside its machine can reach; allowed a run"
                " with --workers N and queue.url"
            )

    def _check(self, session: selection_pb2.Session, timeout_s: float) -> None:
        self._check_open()
        if session != self._session:
            raise FencedError(
                f"run {session.run_id}, generation {session.generation}: is not the one that is"
                f" served here, {self._session.generation} of {self._session.run_id}; attach again"
            )
        if not 0 <= timeout_s <= LONGEST_WAIT_S:
            raise UserError(f"timeout_seconds: got {timeout_s:g}, allowed 0 to {LONGEST_WAIT_S:g}")

    async def _with_store(self, look: Callable[[SnapshotReader], _T]) -> _T:
        """Call ``look`` with a reader of the snapshots, in a thread."""

        def call() -> _T:
            try:
                store = self._idle.pop()
            except IndexError:
                assert self._run.stores is not None, "see _check_open"
                store = self._run.stores()
            try:
                return look(store)
            finally:
                self._idle.append(store)

        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def _pack(self, version: int, timeout_s: float, store: SnapshotReader) -> bytearray | None:
        """The bytes of a version, once it is published; None after ``timeout_s``. Many calls wait
        at the same time; the first one packs the version."""
        weights: dict[str, Tensor] = {}

        def keep(pieces: Pieces) -> None:
            weights.update((name, tensor.clone()) for name, tensor in pieces)

        if store.load(version, lambda _: None, timeout_s) is None:
            return None
        with self._packing:
            if self._packed[0] != version:
                state = store.load(version, keep, LONGEST_WAIT_S)  # it may still be written
                if state is None:
                    return None
                self._packed = version, encode(version, weights, state)
            return self._packed[1]
