"""The Control service, through which an operator observes and controls a run (control.proto).

The process that started the run serves it and writes its address into RUN/control.json. The same
server has the Snapshots service or, for a user's own loop, the Selection service.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc

from rhoselect.errors import ConfigError, RhoError, RunStopped
from rhoselect.inputs import RunInputs
from rhoselect.protos import control_pb2 as pb
from rhoselect.protos import control_pb2_grpc
from rhoselect.runtime.run import Run
from rhoselect.service.channel import FILE_NAME
from rhoselect.service.errors import errors_to_status
from rhoselect.service.security import Security
from rhoselect.service.server import Host, Service
from rhoselect.service.snapshots import Snapshots
from rhoselect.service.status import run_status
from rhoselect.trainer.control import REQUEST_S, Action, StopPoint
from rhoselect.trainer.runfolder import RunFolder, put, writing

NAME = pb.DESCRIPTOR.services_by_name["Control"].full_name
SHORTEST_INTERVAL_S = 0.1
MOST_POINTS = 10_000


@contextmanager
def controlled(run: Run, inputs: RunInputs) -> Iterator[None]:
    """Serve the control of ``run`` within the block. Raises ConfigError if it cannot be served."""
    config = inputs.config.service
    control, snapshots = Control(run, inputs), Snapshots(run, inputs)
    services = [control.service, snapshots.service]
    with ExitStack() as stack:
        stack.enter_context(closing(snapshots))
        security, token_file = Security.of_server(config), config.token_file
        if security.token is None:
            token, token_file = stack.enter_context(_token(run.folder))
            security = replace(security, token=token)
        host = stack.enter_context(Host(services, config.address, security))
        stack.enter_context(control.found(host, token_file))
        yield


@contextmanager
def _token(folder: RunFolder) -> Iterator[tuple[str, str]]:
    """A token made for this run, and the file that has it until the block ends."""
    path = folder.path / "logs" / "control.token"
    token = secrets.token_urlsafe(32)
    with writing(folder):
        path.unlink(missing_ok=True)
        with os.fdopen(
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(token + "\n")
    try:
        yield token, str(path)
    finally:
        with suppress(OSError):
            if path.read_text("utf-8").strip() == token:  # not a newer trainer's
                path.unlink()


class Control(control_pb2_grpc.ControlServicer):
    """See control.proto for the contract of each call. Calls that may wait run in a thread."""

    def __init__(self, run: Run, inputs: RunInputs) -> None:
        self._run, self._inputs = run, inputs
        self._over = asyncio.Event()
        self._failure: RhoError | None = None

    @property
    def service(self) -> Service:
        """For a ``Host``."""
        return Service(NAME, partial(control_pb2_grpc.add_ControlServicer_to_server, self))

    @contextmanager
    def found(self, host: Host, token_file: str | None) -> Iterator[None]:
        """Write ``host``'s address into the run folder for the block, so that operators find it.
        At its end, end all Watch calls, with the error of a run that failed. ``token_file`` holds
        the token that operators must send. Raises StorageError."""
        folder = self._run.folder
        path = folder.path / FILE_NAME
        entry = {
            "address": host.address,
            "pid": os.getpid(),
            "run_id": folder.run_id,
            "generation": folder.generation,
            "token_file": None if token_file is None else str(Path(token_file).absolute()),
            "tls": host.security.tls,
        }
        text = json.dumps(entry) + "\n"
        with writing(folder):
            put(folder, path, lambda beside: beside.write_text(text, "utf-8"))
        try:
            yield
        except RunStopped:
            raise
        except RhoError as error:
            self._failure = error
            raise
        finally:
            host.loop.call_soon_threadsafe(self._over.set)
            with suppress(OSError, ValueError):
                if json.loads(path.read_text("utf-8")) == entry:  # not a newer trainer's
                    path.unlink()

    async def Status(
        self, request: pb.StatusRequest, context: grpc.aio.ServicerContext
    ) -> pb.StatusResponse:
        async with errors_to_status(context):
            return pb.StatusResponse(status=await asyncio.to_thread(self._look))

    async def Watch(
        self, request: pb.WatchRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.WatchResponse]:
        async with errors_to_status(context):
            interval_s = request.interval_s or 1.0
            if not interval_s >= SHORTEST_INTERVAL_S:
                raise ConfigError(
                    f"interval_s: got {interval_s:g}, allowed at least {SHORTEST_INTERVAL_S:g}"
                )
            while not self._over.is_set():
                yield pb.WatchResponse(status=await asyncio.to_thread(self._look))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), interval_s)
            if self._failure is not None:
                raise self._failure

    async def Pause(
        self, request: pb.PauseRequest, context: grpc.aio.ServicerContext
    ) -> pb.PauseResponse:
        async with errors_to_status(context):
            point = await self._request("pause", context)
            return pb.PauseResponse(step=point.step)

    async def Resume(
        self, request: pb.ResumeRequest, context: grpc.aio.ServicerContext
    ) -> pb.ResumeResponse:
        async with errors_to_status(context):
            await self._request("resume", context)
            return pb.ResumeResponse()

    async def Scale(
        self, request: pb.ScaleRequest, context: grpc.aio.ServicerContext
    ) -> pb.ScaleResponse:
        async with errors_to_status(context):
            await asyncio.to_thread(self._run.scale, request.workers)
            return pb.ScaleResponse()

    async def Checkpoint(
        self, request: pb.CheckpointRequest, context: grpc.aio.ServicerContext
    ) -> pb.CheckpointResponse:
        async with errors_to_status(context):
            point = await self._request("checkpoint", context)
            return pb.CheckpointResponse(step=point.step, path=str(point.checkpoint))

    async def Stop(
        self, request: pb.StopRequest, context: grpc.aio.ServicerContext
    ) -> pb.StopResponse:
        async with errors_to_status(context):
            point = await self._request("stop", context)
            return pb.StopResponse(step=point.step, path=str(point.checkpoint))

    async def PeekQueue(
        self, request: pb.PeekQueueRequest, context: grpc.aio.ServicerContext
    ) -> pb.PeekQueueResponse:
        async with errors_to_status(context):
            if not 1 <= request.k <= MOST_POINTS:
                raise ConfigError(f"k: got {request.k}, allowed 1 to {MOST_POINTS}")
            return await asyncio.to_thread(self._peek, request.k)

    def _look(self) -> pb.RunStatus:
        return run_status(self._run, self._inputs.config)

    async def _request(self, action: Action, context: grpc.aio.ServicerContext) -> StopPoint:
        request = self._run.control.request
        return await asyncio.to_thread(request, action, _patience_s(context))

    def _peek(self, k: int) -> pb.PeekQueueResponse:
        popped = self._run.peek(k)
        if popped is None:
            return pb.PeekQueueResponse()
        plan = self._inputs.plan
        rows = zip(
            popped.positions.tolist(),
            plan.indices(popped.positions).tolist(),
            plan.epochs(popped.positions).tolist(),
            popped.scores.tolist(),
            strict=True,
        )
        return pb.PeekQueueResponse(
            window=popped.window if popped.window >= 0 else None,
            version=popped.version,
            points=[
                pb.QueuedPoint(position=position, index=index, epoch=epoch, score=score)
                for position, index, epoch, score in rows
            ],
        )


def _patience_s(context: grpc.aio.ServicerContext) -> float:
    """How long to wait for the end of a step: as long as the caller does, at most REQUEST_S."""
    left_s = context.time_remaining()
    return REQUEST_S if left_s is None else min(REQUEST_S, float(left_s))
