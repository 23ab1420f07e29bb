"""The gRPC server: an event loop in a thread of its own, for a ``with`` block.

Every call, health and reflection included, shows the token first if one is set. Messages are small
(``MESSAGE_BYTES``): whatever is large goes as a stream of chunks.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from rhoselect.errors import ConfigError
from rhoselect.service.security import Security, check_address

CHUNK_BYTES = 1 << 20
MESSAGE_BYTES = CHUNK_BYTES + (1 << 16)  # a chunk and what goes with it
GRACE_S = 2.0  # for calls under way when the server stops

OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # else two servers could share a port, each with half the calls
]


@dataclass(frozen=True)
class Service:
    """One service: its full name, as rhoselect.v1.Control, and what adds it to a server."""

    name: str
    add: Callable[[grpc.aio.Server], None]


class Host:
    """Serves ``services`` at ``address`` (host:port, port 0 for a free one, or unix:path).

    ``address`` is the one really used, within the block. ``loop`` runs the handlers. Raises
    ConfigError for an address that cannot be served, or that may not without TLS and a token.
    """

    def __init__(self, services: Sequence[Service], address: str, security: Security) -> None:
        check_address(address, security)
        self.address, self.security, self._services = address, security, services
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="grpc", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._server = self._call(self._start())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._call(self._server.stop(GRACE_S))
        self._end()

    async def _start(self) -> grpc.aio.Server:
        server = grpc.aio.server(interceptors=[_TokenCheck(self.security)], options=OPTIONS)
        states = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(states, server)
        names = [service.name for service in self._services]
        for service in self._services:
            service.add(server)
        for name in ("", *names):
            await states.set(name, health_pb2.HealthCheckResponse.SERVING)
        reflection.enable_server_reflection(
            [*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server
        )
        self._bind(server)
        await server.start()
        return server

    def _bind(self, server: grpc.aio.Server) -> None:
        credentials = self.security.server_credentials()
        try:
            _check_free(self.address)
            if credentials is None:
                port = server.add_insecure_port(self.address)
            else:
                port = server.add_secure_port(self.address, credentials)
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"service.address: cannot serve at {self.address!r} ({error}); allowed an address"
                " of this machine with a free port (0 picks one), or unix:PATH"
            ) from None
        if self.address.startswith("unix:"):
            os.chmod(self.address.removeprefix("unix:"), 0o600)
        else:
            self.address = f"{self.address.rpartition(':')[0]}:{port}"

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def _end(self) -> None:
        self._call(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def _check_free(address: str) -> None:
    """Raise OSError unless an address can be bound to. gRPC's own reason goes to its log, and it
    would quietly take a Unix socket from another server."""
    if address.startswith("unix:"):
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(address.removeprefix("unix:")) == 0:
                raise OSError("another server listens there")
        return
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    socket.create_server((host.strip("[]"), int(port)), family=family).close()


class _TokenCheck(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets in who has the token, before a byte of the request is read."""

    def __init__(self, security: Security) -> None:
        self._security = security

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        if self._security.admits(details.invocation_metadata):
            return await continuation(details)
        return grpc.stream_stream_rpc_method_handler(_refuse)


async def _refuse(requests: object, context: grpc.aio.ServicerContext) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token, or another one")
