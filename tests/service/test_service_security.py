"""Who may call the service, by what real clients get from a real server."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from certificates import Authority
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from rhoselect.config import load, parse
from rhoselect.config.operation import ServiceConfig
from rhoselect.errors import ConfigError, FencedError, RhoError, ServiceError
from rhoselect.service.channel import open_channel
from rhoselect.service.errors import error_of, errors_to_status, status_to_errors
from rhoselect.service.security import TOKEN_VARIABLE, Security, check_address
from rhoselect.service.server import Host, Service
from support import behind_proxy

TOKEN = "correct horse battery staple"
LOOPBACK = "127.0.0.1:0"


def health(channel: grpc.Channel) -> int:
    check = health_pb2_grpc.HealthStub(channel).Check
    status: int = check(health_pb2.HealthCheckRequest()).status
    return status


def reflect(channel: grpc.Channel) -> list[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    [answer] = stub.ServerReflectionInfo(iter([request]))
    return [service.name for service in answer.list_services_response.service]


def reached(address: str, security: Security) -> bool:
    """Whether a client with ``security`` gets anything, when it tries all there is."""
    refusals = []
    for call in (health, reflect):
        with open_channel(address, security, deadline_s=10.0) as channel:
            try:
                call(channel)
            except grpc.RpcError as error:
                refusals.append(error.code())
    assert {*refusals} <= {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE}
    assert len(refusals) in (0, 2), "all calls or none"
    return not refusals


def test_other_machines_are_called_through_the_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Except to those that NO_PROXY names, in capital letters too, as most programs read it."""
    behind_proxy(monkeypatch)
    security = Security(tls=True, ca=Authority(tmp_path, "ca").ca.read_bytes())
    for excepted in ("198.51.100.0/24", "192.0.2.0/24"):
        monkeypatch.setenv("NO_PROXY", excepted)
        os.environ.pop("no_proxy", None)
        with socket.create_server(("127.0.0.1", 0)) as proxy:
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
            with open_channel("192.0.2.7:443", security, deadline_s=1.0) as channel:
                with pytest.raises(grpc.RpcError):
                    health(channel)
                proxy.setblocking(False)
                if excepted.startswith("192"):
                    with pytest.raises(BlockingIOError):
                        proxy.accept()
                else:
                    connection, _ = proxy.accept()
                    with connection:
                        assert connection.recv(1000).startswith(b"CONNECT 192.0.2.7:443")


def test_only_who_has_the_token_gets_an_answer() -> None:
    with Host([], LOOPBACK, Security(token=TOKEN)) as host:
        assert reached(host.address, Security(token=TOKEN))
        assert not reached(host.address, Security())
        assert not reached(host.address, Security(token=TOKEN + "s"))
        assert not reached(host.address, Security(token=""))
        channel = open_channel(host.address, Security())
        with channel, pytest.raises(ConfigError, match="token"), status_to_errors(host.address):
            health(channel)


def test_tls_shuts_out_plain_text_and_other_authorities(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    cert, key = ours.issue("server")
    config = ServiceConfig(tls_cert=str(cert), tls_key=str(key))
    with Host([], LOOPBACK, Security.of_server(config)) as host:
        assert reached(host.address, Security.of_client(tls_ca=ours.ca))
        assert not reached(host.address, Security())
        assert not reached(host.address, Security.of_client(tls_ca=theirs.ca))


def test_mutual_tls_wants_a_certificate_of_its_authority(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    cert, key = ours.issue("server")
    config = ServiceConfig(tls_cert=str(cert), tls_key=str(key), tls_client_ca=str(ours.ca))
    with Host([], LOOPBACK, Security.of_server(config)) as host:
        assert reached(host.address, Security.of_client(None, ours.ca, *ours.issue("client")))
        assert not reached(host.address, Security.of_client(tls_ca=ours.ca))
        assert not reached(host.address, Security.of_client(None, ours.ca, *theirs.issue("other")))


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "gpu7.example.org:1"])
def test_other_machines_need_tls_and_a_token(address: str) -> None:
    for security in (Security(), Security(token=TOKEN), Security(tls=True)):
        with pytest.raises(ConfigError, match=r"service\.address.*TLS and a token"):
            Host([], address, security)
    check_address(address, Security(token=TOKEN, tls=True))


@pytest.mark.parametrize("address", ["10.0.0.1:1", "gpu7.example.org:1", "dns:///127.0.0.1:1"])
def test_other_machines_are_not_called_in_plain_text(address: str) -> None:
    """Not even with a token: that would be shown to whoever is in between."""
    for security in (Security(), Security(token=TOKEN)):
        with pytest.raises(ConfigError, match=r"another machine.*--tls-ca"):
            open_channel(address, security)
    open_channel(address, Security(token=TOKEN, tls=True)).close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.8.8.8"])
def test_loopback_needs_none(host: str) -> None:
    check_address(f"{host}:1", Security())
    open_channel(f"{host}:1", Security()).close()


def test_unix_socket_is_its_owner_s_alone(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/service.sock"
    with Host([], address, Security()) as host:
        assert reached(host.address, Security())
        assert stat.S_IMODE((tmp_path / "service.sock").stat().st_mode) == 0o600
        with pytest.raises(ConfigError, match="another server"), Host([], address, Security()):
            pass
    with Host([], address, Security()):
        pass  # what a server left behind is in nobody's way


def test_a_taken_port_is_one_line() -> None:
    taken = pytest.raises(ConfigError, match="Address already in use")
    with Host([], LOOPBACK, Security()) as host, taken:
        Host([], host.address, Security()).__enter__()


def test_secrets_come_from_files_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_config: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    config = load(tiny_config, [f"service.token_file={file}"])
    security = Security.of_server(config.service)
    assert security.token == TOKEN
    assert TOKEN not in config.to_toml() + config.model_dump_json() + repr(security)
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN[::-1])
    assert Security.of_client().token == TOKEN[::-1]
    assert Security.of_client(file).token == TOKEN, "the file goes first"


def test_files_that_cannot_be_used_are_named_in_one_line(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    (cert, key), (_, other_key) = authority.issue("server"), authority.issue("other")
    empty = tmp_path / "empty"
    empty.touch()
    for given, word in (
        ({"tls_cert": cert, "tls_key": other_key}, "mismatch"),
        ({"tls_cert": empty, "tls_key": key}, str(empty)),
        ({"tls_cert": tmp_path / "none", "tls_key": key}, "No such file"),
        ({"tls_cert": cert, "tls_key": key, "tls_client_ca": key}, str(key)),
        ({"token_file": empty}, "got a token of 0 characters"),
        ({"token_file": tmp_path / "none"}, "No such file"),
    ):
        config = ServiceConfig(**{name: str(path) for name, path in given.items()})
        with pytest.raises(ConfigError, match=word) as caught:
            Security.of_server(config)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="tls_ca"):
        Security.of_client(tls_cert=cert, tls_key=key)


@pytest.mark.parametrize(
    "section",
    [
        {"tls_cert": "cert.pem"},
        {"tls_client_ca": "ca.pem"},
        {"address": "127.0.0.1"},
        {"address": "127.0.0.1:99999"},
        {"address": "unix:"},
    ],
)
def test_half_a_section_is_refused(section: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"^service\."):
        parse({"data": {"path": "data"}, "service": section})


def kinds(kind: type[RhoError] = RhoError) -> list[type[RhoError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in kinds(below))]


def test_every_exception_arrives_as_itself() -> None:
    async def fail(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        async with errors_to_status(context):
            raise {kind.__name__: kind for kind in kinds()}[request.decode()](f"é {request!r}")
        return b""

    handler = grpc.unary_unary_rpc_method_handler(fail)
    add = [grpc.method_handlers_generic_handler("test.Failing", {"Fail": handler})]
    service = Service("test.Failing", lambda server: server.add_generic_rpc_handlers(add))
    with ExitStack() as stack:
        host = stack.enter_context(Host([service], LOOPBACK, Security()))
        channel = stack.enter_context(open_channel(host.address, Security()))
        assert "test.Failing" in reflect(channel)
        call = channel.unary_unary("/test.Failing/Fail")
        for kind in kinds():
            name = kind.__name__
            with pytest.raises(grpc.RpcError) as caught:
                call(name.encode())
            raised = error_of(caught.value, host.address)
            assert type(raised) is kind
            assert str(raised) == f"é {name.encode()!r}"
            if issubclass(kind, FencedError):
                assert caught.value.code() is grpc.StatusCode.ABORTED
    channel = open_channel(host.address, Security())
    with (
        channel,
        pytest.raises(ServiceError, match="cannot be reached"),
        status_to_errors(host.address),
    ):
        health(channel)
