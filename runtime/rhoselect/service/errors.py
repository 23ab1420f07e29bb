"""Errors on the wire: the server turns an exception into a rich status, the client turns it back.

The status is google.rpc.Status with an ErrorInfo whose domain is ``rhoselect`` and whose reason is
the exception's name in capitals, as CONFIG_ERROR. The message is the exception's one line.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from rhoselect.errors import (
    ConfigError,
    FencedError,
    QueueConfigError,
    RhoError,
    RunError,
    RunFolderError,
    ServiceError,
    SnapshotGoneError,
    UserError,
    WaitError,
    WindowError,
)

DOMAIN = "rhoselect"

CODES: dict[type[RhoError], grpc.StatusCode] = {
    UserError: grpc.StatusCode.INVALID_ARGUMENT,
    RunFolderError: grpc.StatusCode.FAILED_PRECONDITION,
    QueueConfigError: grpc.StatusCode.FAILED_PRECONDITION,
    RunError: grpc.StatusCode.INTERNAL,
    FencedError: grpc.StatusCode.ABORTED,
    WindowError: grpc.StatusCode.FAILED_PRECONDITION,
    SnapshotGoneError: grpc.StatusCode.NOT_FOUND,
    WaitError: grpc.StatusCode.DEADLINE_EXCEEDED,
    ServiceError: grpc.StatusCode.UNAVAILABLE,
    RhoError: grpc.StatusCode.INTERNAL,
}
"""The code of each class, and of the classes below it."""


@asynccontextmanager
async def errors_to_status(context: grpc.aio.ServicerContext) -> AsyncIterator[None]:
    """Wrap a server's handler: a RhoError ends the call with its status."""
    try:
        yield
    except RhoError as error:
        await context.abort(*rpc_status.to_status(status_of(error)))


@contextmanager
def status_to_errors(who: str) -> Iterator[None]:
    """Wrap a client's call to the service ``who``: raises the exception that the server raised."""
    try:
        yield
    except grpc.RpcError as error:
        raise error_of(error, who) from None


def status_of(error: RhoError) -> Status:
    """The rich status of an exception."""
    code = next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)
    status = Status(code=code.value[0], message=str(error))
    status.details.add().Pack(ErrorInfo(reason=_reason(type(error)), domain=DOMAIN))
    return status


def error_of(error: grpc.RpcError, who: str) -> RhoError:
    """The exception that a failed call stands for."""
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info = ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            return _kinds().get(info.reason, RunError)(status.message)
    code, details = error.code(), error.details() or ""
    if code == grpc.StatusCode.UNAUTHENTICATED:
        return ConfigError(f"service {who}: refuses the token; give the service's token_file")
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return WaitError(f"service {who}: no answer before the deadline ({details})")
    if code == grpc.StatusCode.UNAVAILABLE:
        return ServiceError(
            f"service {who}: cannot be reached ({details}); check the address, that it runs, and"
            " that both sides use TLS or neither"
        )
    return RunError(f"service {who}: {code.name}: {details}")


def _reason(kind: type[RhoError]) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).upper()


def _kinds(kind: type[RhoError] = RhoError) -> dict[str, type[RhoError]]:
    """The exception tree by reason."""
    kinds = {_reason(kind): kind}
    for below in kind.__subclasses__():
        kinds |= _kinds(below)
    return kinds
