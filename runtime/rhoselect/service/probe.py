"""A trial of what the commands on a run need: a service on loopback that can be called."""

from __future__ import annotations

import os
import secrets

from grpc_health.v1 import health_pb2, health_pb2_grpc

from rhoselect.service.channel import PROXIES, open_channel
from rhoselect.service.errors import status_to_errors
from rhoselect.service.security import Security
from rhoselect.service.server import Host

PROBE_S = 10.0


def call_loopback() -> None:
    """Serve on loopback and call that, as a run and its commands do. Raises RhoError."""
    security = Security(token=secrets.token_hex(16))
    with (
        Host([], "127.0.0.1:0", security) as host,
        status_to_errors(host.address),
        open_channel(host.address, security, PROBE_S) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        stub.Check(health_pb2.HealthCheckRequest())


def proxy_variable() -> str | None:
    """The variable that names the proxy for calls to other machines, if one does."""
    return next((name for name in PROXIES if os.environ.get(name)), None)
