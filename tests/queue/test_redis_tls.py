"""A server that speaks TLS and asks for a user: who gets in, with what rights, and who does not."""

from __future__ import annotations

import datetime
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from queue_helpers import chunk_scores, fill

from rhoselect.config import QueueConfig
from rhoselect.errors import ConfigError, QueueConfigError, RunError
from rhoselect.queue.redis import RedisQueue, check_server, ping
from rhoselect.runtime.queue_address import queue_url
from rhoselect.types import Ticket
from servers import PASSWORD, free_port, redis_server

SECURITY = Path(__file__).parents[2] / "docs" / "security.md"
RIGHTS = next(
    line.split() for line in SECURITY.read_text().splitlines() if line.startswith("~rho:*")
)
"""What docs/security.md tells an administrator to grant."""


@dataclass(frozen=True)
class Authority:
    """A CA, and the PEM files of what it signed: a server's certificate and a client's."""

    ca: Path
    server: tuple[Path, Path]
    client: tuple[Path, Path]


def authority(folder: Path, host: str = "127.0.0.1") -> Authority:
    """A CA of its own, whose server certificate is for ``host``."""
    folder.mkdir()
    now = datetime.datetime.now(datetime.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))])

    def signed(name: str, key: ec.EllipticCurvePrivateKey, extension: object, ca: bool) -> Path:
        subject = ca_name if ca else x509.Name([])
        builder = x509.CertificateBuilder(
            ca_name,
            subject,
            key.public_key(),
            x509.random_serial_number(),
            now - datetime.timedelta(days=1),
            now + datetime.timedelta(days=1),
        ).add_extension(extension, critical=True)
        path = folder / f"{name}.crt"
        certificate = builder.sign(ca_key, hashes.SHA256())
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return path

    def pair(name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        path = folder / f"{name}.key"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return signed(name, key, names, ca=False), path

    ca = signed("ca", ca_key, x509.BasicConstraints(ca=True, path_length=None), ca=True)
    return Authority(ca, pair("server"), pair("client"))


@dataclass(frozen=True)
class TlsServer:
    """A server that speaks TLS alone, and whose one user has but the rights of the docs."""

    port: int
    authority: Authority
    socket: Path

    @property
    def admin(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket), password=PASSWORD)

    @property
    def url(self) -> str:
        return f"rediss://worker@127.0.0.1:{self.port}"

    def grant(self, rights: list[str]) -> None:
        """Give the user these rights and no others."""
        with self.admin as admin:
            admin.execute_command(
                "ACL", "SETUSER", "worker", "reset", "on", f">{PASSWORD}", *rights
            )


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    folder = tmp_path_factory.mktemp("tls")
    made = TlsServer(free_port(), authority(folder / "pem"), folder / "admin.sock")
    pem = made.authority
    command = [
        *(redis_server(), "--port", "0", "--tls-port", str(made.port), "--bind", "127.0.0.1"),
        *("--tls-ca-cert-file", str(pem.ca), "--tls-auth-clients", "optional"),
        *("--tls-cert-file", str(pem.server[0]), "--tls-key-file", str(pem.server[1])),
        *("--unixsocket", str(made.socket), "--unixsocketperm", "700"),
        *("--requirepass", PASSWORD, "--save", "", "--appendonly", "no", "--dir", str(folder)),
    ]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20.0
        while not ping(f"unix://:{quote(PASSWORD, '')}@{made.socket}"):
            text = (folder / "server.log").read_text()
            assert process.poll() is None, text
            assert time.monotonic() < deadline, text
        made.grant(RIGHTS)
        yield made
    finally:
        process.terminate()
        process.wait(10.0)


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    return path


def url_of(server: TlsServer, password_file: Path, **keys: str) -> str:
    keys = {"tls_ca": str(server.authority.ca), "url": server.url, **keys}
    url = queue_url(QueueConfig(password_file=str(password_file), **keys))
    assert url is not None
    return url


def refusal(url: str) -> str:
    with pytest.raises(QueueConfigError) as caught:
        check_server(url)
    message = str(caught.value)
    assert "\n" not in message and PASSWORD not in message and quote(PASSWORD, "") not in message
    return message


def work(url: str) -> None:
    """Every call that a run makes."""
    ping(url)
    queue = RedisQueue(url, "run", 1, 0.001, 600.0, 5.0)
    queue.open(0, 0, 2)
    queue.push(Ticket(0, 1, 0), chunk_scores({7: 0.1}, features=[[3.0]]))
    ticket = queue.claim(1, 1.0, lanes=2)
    assert ticket is not None and queue.reap(1) == 1
    scores = chunk_scores({1: 0.5, 2: 2.5}, rejected=[3], features=[[1.0], [2.0]])
    assert queue.push(ticket, scores) and queue.rejected(0) == [3]
    best = queue.pop(0, 1, 1.0)
    assert best is not None and best.features is not None
    queue.open_shortlist(0, 0, best.positions, 1)
    assert queue.claim(0, 0, only="candidates") is None
    assert queue.claim(0, 1.0) is not None and queue.pop(1, 1, 0.2) is None
    fill(queue, 5, 5, [chunk_scores({9: 1.0})])
    assert queue.stats().windows > 0 and queue.peek(1) is not None
    queue.check_fence()
    queue.close(5)
    queue.destroy()
    queue.disconnect()


def test_the_rights_of_the_docs_are_what_a_run_uses(tls: TlsServer, password_file: Path) -> None:
    """No more and no less: the server counts commands, those within scripts as well. The check at
    start uses all of them, too."""
    for use in (work, check_server):
        with tls.admin as admin:
            admin.config_resetstat()
            use(url_of(tls, password_file))
            used = {name.removeprefix("cmdstat_") for name in admin.info("commandstats")}
            assert admin.keys() == []
            assert admin.execute_command("ACL", "LOG") == []
        ours = {"config|resetstat", "auth", "client|setinfo"}  # the last two anyone may
        assert {right.removeprefix("+") for right in RIGHTS[1:]} == used - ours, used


def test_a_right_that_the_user_lacks_is_told_at_start(tls: TlsServer, password_file: Path) -> None:
    """Of a command, of one within a script, of one that a run seldom needs, and to its keys."""
    url = url_of(tls, password_file)
    keys, *commands = RIGHTS
    try:
        for lacking in ("+info", "+evalsha", "+zadd", "+script|load", "+xread", "+zrange"):
            tls.grant([keys, *(right for right in commands if right != lacking)])
            assert "docs/security.md" in refusal(url), lacking
        tls.grant(["~other:*", *commands])
        assert "docs/security.md" in refusal(url)
        tls.grant(RIGHTS)
        check_server(url)
    finally:
        tls.grant(RIGHTS)


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("KEYS", "*"),
        ("ACL", "LIST"),
        ("GET", "other"),
        ("SCRIPT", "FLUSH"),
    ],
)
def test_the_user_gets_no_more(
    tls: TlsServer, password_file: Path, command: tuple[str, ...]
) -> None:
    client = redis.Redis.from_url(url_of(tls, password_file))
    with client, pytest.raises(redis.exceptions.NoPermissionError):
        client.execute_command(*command)


def test_a_client_certificate_is_shown(tls: TlsServer, password_file: Path) -> None:
    certificate, key = map(str, tls.authority.client)
    with tls.admin as admin:
        admin.config_set("tls-auth-clients", "yes")
        try:
            assert "cannot be reached" in refusal(url_of(tls, password_file))
            check_server(url_of(tls, password_file, tls_cert=certificate, tls_key=key))
        finally:
            admin.config_set("tls-auth-clients", "optional")


def test_strangers_get_nothing(tls: TlsServer, password_file: Path, tmp_path: Path) -> None:
    """One who speaks plain text, has no password, another's, or another user's name."""
    plain = tls.url.replace("rediss://", "redis://")
    assert "cannot be reached" in refusal(plain)
    address = f"127.0.0.1:{tls.port}"
    ca = f"?ssl_ca_certs={quote(str(tls.authority.ca))}"
    for credentials in ("", ":guess@", "worker:guess@", f"nobody:{quote(PASSWORD, '')}@"):
        assert re.search(
            "refuses the user|forbids", refusal(f"rediss://{credentials}{address}{ca}")
        )


def test_a_server_that_we_cannot_trust_is_told_nothing(
    tls: TlsServer, password_file: Path, tmp_path: Path
) -> None:
    """Another's CA, the system's, and a certificate for another host."""
    other = str(authority(tmp_path / "other").ca)
    urls = [url_of(tls, password_file, tls_ca=other)]
    urls.append(urls[0].partition("?")[0])
    urls.append(url_of(tls, password_file, url=f"rediss://worker@localhost:{tls.port}"))
    for url in urls:
        message = refusal(url)
        assert "CERTIFICATE_VERIFY_FAILED" in message and "queue.tls_ca" in message
        queue = RedisQueue(url, "run", 1, 60.0, 600.0, 600.0)
        with pytest.raises(RunError, match="CERTIFICATE_VERIFY_FAILED"):  # at once, not after 600 s
            queue.stats()
        queue.disconnect()


def test_a_plain_server_behind_a_url_of_tls(tcp_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rhoselect.queue.redis.check.CHECK_TIMEOUT_S", 0.5)
    assert "start the server with TLS" in refusal(tcp_url.replace("redis://", "rediss://"))


@pytest.mark.parametrize(
    "option", ["ssl_cert_reqs=none", "ssl_check_hostname=false", "password=x", "ssl_cert_reqs"]
)
def test_nothing_in_a_url_switches_verification_off(tls: TlsServer, option: str) -> None:
    url = f"{tls.url}?{option}"
    for look in (check_server, lambda url: queue_url(QueueConfig(url=url))):
        with pytest.raises(QueueConfigError, match="unknown option"):
            look(url)


def test_files_of_tls_go_with_tls(tls: TlsServer, password_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"queue\.tls_ca: got it with .*'redis'.* rediss://"):
        url_of(tls, password_file, url="redis://127.0.0.1")
    with pytest.raises(ConfigError, match=r"queue\.tls_cert: got it or queue\.tls_key alone"):
        url_of(tls, password_file, tls_cert=str(tls.authority.client[0]))
    with pytest.raises(ConfigError, match=rf"queue\.tls_ca {password_file}: cannot be read as PEM"):
        url_of(tls, password_file, tls_ca=str(password_file))
