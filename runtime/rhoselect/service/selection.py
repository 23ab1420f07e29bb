"""The service rhoselect.v1.Selection over sessions: one at a time, each in a thread of its own.

Handlers run on the server's event loop and leave everything that takes time to the session's
thread, where calls queue up: a repeated one finds its answer there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, TypeVar

import grpc
import torch
from torch import Tensor

from rhoselect.errors import FencedError, ModelError, UserError
from rhoselect.nest import described
from rhoselect.protos import selection_pb2 as pb
from rhoselect.protos import selection_pb2_grpc
from rhoselect.selector.fence import ONE_LOOP
from rhoselect.selector.session import Session
from rhoselect.service import blobs
from rhoselect.service.errors import errors_to_status
from rhoselect.service.server import Service

NAME = pb.DESCRIPTOR.services_by_name["Selection"].full_name
CPU = torch.device("cpu")
_T = TypeVar("_T")

Opened = tuple[pb.OpenRunResponse, Session]
Open = Callable[[int, int], AbstractContextManager[Opened]]
"""Opens a session that begins with the given step, for a loop of so many ranks, with its backends,
until the block ends."""


class Selection(selection_pb2_grpc.SelectionServicer):
    """Serves the sessions that ``open_session`` makes."""

    def __init__(self, open_session: Open) -> None:
        self._open = open_session
        self._changing = asyncio.Lock()
        self._held: _Held | None = None
        self._closed: _Held | None = None  # the last one, for what its loop measures at the end

    @property
    def service(self) -> Service:
        """For a ``Host``."""
        return Service(NAME, partial(selection_pb2_grpc.add_SelectionServicer_to_server, self))

    async def OpenRun(
        self, request: pb.OpenRunRequest, context: grpc.aio.ServicerContext
    ) -> pb.OpenRunResponse:
        async with errors_to_status(context), self._changing:
            ranks = request.ranks or 1
            held = _Held(self._open(request.step, ranks), ranks)
            try:
                answer = await held.begin()  # this fences the session before
            except BaseException as error:  # its caller may have left, while it goes on opening
                await held.end()
                if not isinstance(error, UserError):
                    await self._hold(None)
                raise
            await self._hold(held)
            self._closed = None
        return answer

    async def PublishSnapshot(
        self,
        requests: AsyncIterator[pb.PublishSnapshotRequest],
        context: grpc.aio.ServicerContext,
    ) -> pb.PublishSnapshotResponse:
        async with errors_to_status(context):
            first = await anext(aiter(requests), None)
            if first is None or first.WhichOneof("part") != "header":
                raise UserError("snapshot: got no header, allowed one as the first message")
            head = first.header
            held = self._held_for(head.session)
            arriving = blobs.Arriving(head.blob, blobs.most_bytes(held.session.layout))
            with held.expecting(arriving):
                async for request in requests:
                    held.check_expected(arriving)
                    arriving.add(request.chunk)
                await held.run(_publish, held.session, head.version, arriving)
        return pb.PublishSnapshotResponse()

    async def NextBatch(
        self, request: pb.NextBatchRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.NextBatchResponse]:
        async with errors_to_status(context):
            held = self._held_for(request.session)
            asked = held.session, request.step, request.with_inputs, held.rows_of(request.rank)
            header, blob = await held.run(_next, *asked)
            yield pb.NextBatchResponse(header=header)
            for chunk in blobs.chunks(blob):
                yield pb.NextBatchResponse(chunk=chunk)

    async def Report(
        self, request: pb.ReportRequest, context: grpc.aio.ServicerContext
    ) -> pb.ReportResponse:
        async with errors_to_status(context):
            held = self._held_for(request.session)
            losses = torch.tensor(request.losses, dtype=torch.float32)
            await held.run(held.session.report, request.step, losses)
        return pb.ReportResponse()

    async def Log(
        self, request: pb.LogRequest, context: grpc.aio.ServicerContext
    ) -> pb.LogResponse:
        async with errors_to_status(context):
            values = dict(request.values)
            if self._closed is not None and self._closed.name == request.session:
                await asyncio.to_thread(self._closed.session.log, request.step, values)
            else:
                held = self._held_for(request.session)
                await held.run(held.session.log, request.step, values)
        return pb.LogResponse()

    async def Close(
        self, request: pb.CloseRequest, context: grpc.aio.ServicerContext
    ) -> pb.CloseResponse:
        async with errors_to_status(context), self._changing:
            if self._held is not None and self._held.name == request.session:
                self._closed = self._held
                await self._hold(None)
        return pb.CloseResponse()

    async def end(self) -> None:
        """End the session that is open, if one is."""
        async with self._changing:
            await self._hold(None)

    async def _hold(self, held: _Held | None) -> None:
        """Have ``held`` in place of the session before, which ends."""
        before, self._held = self._held, held
        if before is not None:
            await before.end()

    def _held_for(self, session: pb.Session) -> _Held:
        if self._held is None or self._held.name != session:
            reason = "closed" if self._held is None else "ended by another client of the run"
            raise FencedError(f"session {session.generation}: {reason}; {ONE_LOOP}")
        return self._held


class _Held:
    """A session with its thread, from ``begin`` to ``end``, for a loop of so many ``ranks``."""

    def __init__(self, opening: AbstractContextManager[Opened], ranks: int) -> None:
        self._opening, self._ranks = opening, ranks
        self._pool = ThreadPoolExecutor(1, "session")
        self.name = pb.Session()
        self._entered: Session | None = None
        self._arriving: blobs.Arriving | None = None

    @property
    def session(self) -> Session:
        """The session that ``begin`` opened."""
        assert self._entered is not None, "callers have waited for `begin`"
        return self._entered

    async def begin(self) -> pb.OpenRunResponse:
        return await self.run(self._enter)

    def _enter(self) -> pb.OpenRunResponse:
        answer, self._entered = self._opening.__enter__()
        self.name = answer.session
        return answer

    def rows_of(self, rank: int) -> slice:
        """The rows of a batch that are this rank's. Raises UserError."""
        if not 0 <= rank < self._ranks:
            raise UserError(
                f"rank: got {rank}, allowed 0 to {self._ranks - 1}, as OpenRun named {self._ranks}"
            )
        return slice(rank, None, self._ranks)

    async def run(self, call: Callable[..., _T], *arguments: Any) -> _T:
        """Run ``call`` in the session's thread, after earlier calls, even if the client leaves."""
        done = asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)
        return await asyncio.shield(done)

    @contextmanager
    def expecting(self, arriving: blobs.Arriving) -> Iterator[None]:
        """Keep only this snapshot. If the client's connection broke, an older one may still be
        arriving; its data are dropped."""
        if self._arriving is not None:
            self._arriving.forget()
        self._arriving = arriving
        try:
            yield
        finally:
            if self._arriving is arriving:
                self._arriving = None

    def check_expected(self, arriving: blobs.Arriving) -> None:
        """Raise UserError if another snapshot has begun to arrive since."""
        if self._arriving is not arriving:
            raise UserError("snapshot: another one began to arrive, allowed one at a time")

    async def end(self) -> None:
        """Also after a ``begin`` that failed, or that is still going on."""
        if self._entered is not None:
            self._entered.abandon()  # a call that waits ends, and lets the next one begin
        await self.run(self._leave)
        self._pool.shutdown()

    def _leave(self) -> None:
        if self._entered is not None:
            self._opening.__exit__(None, None, None)


def _publish(session: Session, version: int, arriving: blobs.Arriving) -> None:
    tensors = arriving.tensors()
    for name, like in session.layout.items():
        if name in tensors and tensors[name].dtype != like.dtype:
            raise ModelError(
                f"snapshot: {name} is {tensors[name].dtype}, allowed {like.dtype}, as in the layout"
            )
    session.publish(version, tensors)


def _next(session: Session, step: int, with_inputs: bool, rows: slice) -> tuple[Any, bytearray]:
    selected = session.next(step)
    picked, weights = selected.points, selected.points.weights
    indices, epochs = picked.indices[rows], picked.epochs[rows]
    batch = session.train.read(indices, CPU, epochs)
    tensors: dict[str, Tensor] = {
        "indices": torch.from_numpy(indices),
        "epochs": torch.from_numpy(epochs),
        "scores": torch.tensor(picked.scores[rows], dtype=torch.float64),
        "weights": torch.ones(len(indices)) if weights is None else weights[rows].float(),
    }
    inputs = batch.inputs if batch.paired else batch.content
    labels = batch.labels if batch.paired or not with_inputs else None
    wanted = {"inputs": inputs} if with_inputs else {}
    content, parts = described(wanted if labels is None else {**wanted, "labels": labels})
    blob, audit = blobs.pack(tensors | parts), selected.audit
    head = pb.NextBatchHeader(
        step=step,
        version=selected.version,
        blob=blobs.header(blob),
        content=json.dumps(content),
        rank_agreement=None if audit is None else audit.rank_agreement,
    )
    return head, blob
