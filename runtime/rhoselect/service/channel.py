"""The client's channel: it sends the token and gives every call a deadline."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import grpc

from rhoselect.service.security import Security, check_called, is_here
from rhoselect.service.server import MESSAGE_BYTES

DEADLINE_S = 30.0
FILE_NAME = "control.json"
"""File in the folder of a running run, with the address of its services and how to authenticate."""


PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
"""Variables from which gRPC takes the proxy for calls to other machines."""


def open_channel(address: str, security: Security, deadline_s: float = DEADLINE_S) -> grpc.Channel:
    """A channel to host:port or unix:path. Calls without a timeout get ``deadline_s``.

    Nothing is sent yet; the first call finds out whether the service is there. Only calls to other
    machines use a proxy. Raises ConfigError for another machine without TLS.
    """
    check_called(address, security)
    options = [("grpc.max_receive_message_length", MESSAGE_BYTES)]
    if is_here(address):
        options.append(("grpc.enable_http_proxy", 0))
    elif "NO_PROXY" in os.environ:  # gRPC reads only the name in small letters
        os.environ.setdefault("no_proxy", os.environ["NO_PROXY"])
    credentials = security.channel_credentials()
    if credentials is None:
        channel = grpc.insecure_channel(address, options)
    else:
        channel = grpc.secure_channel(address, credentials, options)
    return grpc.intercept_channel(channel, _Dress(security, deadline_s))


class _Details(grpc.ClientCallDetails):  # type: ignore[misc]
    """A call's details with token and deadline."""

    def __init__(self, details: Any, security: Security, deadline_s: float) -> None:
        self.method = details.method
        self.timeout = deadline_s if details.timeout is None else details.timeout
        self.metadata = (*(details.metadata or ()), *security.metadata)
        self.credentials = details.credentials
        self.wait_for_ready = getattr(details, "wait_for_ready", None)
        self.compression = getattr(details, "compression", None)


class _Dress(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    """The same for all four kinds of calls."""

    def __init__(self, security: Security, deadline_s: float) -> None:
        self._security, self._deadline_s = security, deadline_s

    def _call(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        return continuation(_Details(details, self._security, self._deadline_s), request)

    intercept_unary_unary = _call
    intercept_unary_stream = _call
    intercept_stream_unary = _call
    intercept_stream_stream = _call
