"""Who may call: addresses, tokens and certificates. Secrets come from files or the environment."""

from __future__ import annotations

import hmac
import ipaddress
import os
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from rhoselect.config.operation import ServiceConfig
from rhoselect.errors import ConfigError
from rhoselect.files import place

TOKEN_VARIABLE = "RHOSELECT_SERVICE_TOKEN"
SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Security:
    """What one side shows and asks for; secrets stay out of ``repr``.

    ``token``: a server's callers send it, a client sends it. ``certificate`` and ``key`` (PEM): who
    this side is. ``ca`` (PEM): who signs the other side's certificate; a server with one refuses
    clients without a certificate. ``tls``: whether the connection is encrypted.
    """

    token: str | None = field(default=None, repr=False)
    tls: bool = False
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    ca: bytes | None = field(default=None, repr=False)

    @staticmethod
    def of_server(config: ServiceConfig) -> Security:
        """What ``[service]`` says. Raises ConfigError for files that cannot be used."""
        _check_pair("service.tls_cert", config.tls_cert, config.tls_key, config.tls_client_ca)
        return Security(
            token=read_token("service.token_file", config.token_file),
            tls=config.tls_cert is not None,
            certificate=_pem("service.tls_cert", config.tls_cert),
            key=_pem("service.tls_key", config.tls_key),
            ca=_pem("service.tls_client_ca", config.tls_client_ca),
        )

    @staticmethod
    def of_client(
        token_file: Path | str | None = None,
        tls_ca: Path | str | None = None,
        tls_cert: Path | str | None = None,
        tls_key: Path | str | None = None,
    ) -> Security:
        """What a client was given; TLS needs ``tls_ca``. Raises ConfigError."""
        if (tls_cert is None) != (tls_key is None) or (tls_cert is not None and tls_ca is None):
            raise ConfigError(
                "tls_cert: got a part of TLS, allowed tls_ca alone, or tls_ca, tls_cert and tls_key"
            )
        _check_pair("tls_cert", tls_cert, tls_key, tls_ca)
        return Security(
            token=read_token("token_file", token_file),
            tls=tls_ca is not None,
            certificate=_pem("tls_cert", tls_cert),
            key=_pem("tls_key", tls_key),
            ca=_pem("tls_ca", tls_ca),
        )

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """gRPC's form of it; None without TLS."""
        if not self.tls:
            return None
        pair = [(self.key, self.certificate)]
        return grpc.ssl_server_credentials(pair, self.ca, require_client_auth=self.ca is not None)

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """gRPC's form of it; None without TLS."""
        if not self.tls:
            return None
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a client sends with each call."""
        return () if self.token is None else (("authorization", f"Bearer {self.token}"),)

    def admits(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        """Whether a call's metadata hold the token; takes as long for any guess."""
        if self.token is None:
            return True
        shown = [value for key, value in metadata if key == "authorization"]
        said = shown[0] if len(shown) == 1 else ""
        said = said.encode() if isinstance(said, str) else said
        return hmac.compare_digest(said, f"Bearer {self.token}".encode())


def check_address(address: str, security: Security) -> None:
    """Raise ConfigError unless ``address`` may be served: loopback, or with TLS and token."""
    if is_here(address) or (security.tls and security.token is not None):
        return
    raise ConfigError(
        f"service.address: got {address!r}, which other machines may reach, allowed loopback"
        f" (127.0.0.1:PORT, [::1]:PORT) or unix:PATH unless TLS and a token are set: give"
        f" service.tls_cert, service.tls_key and service.token_file (or {TOKEN_VARIABLE})"
    )


def check_called(address: str, security: Security) -> None:
    """Raise ConfigError unless ``address`` may be called: loopback, or with TLS. Without TLS a
    network would carry the token in plain text, and the service could not prove its identity."""
    if not is_here(address) and not security.tls:
        raise ConfigError(
            f"service: got {address!r}, which is another machine, without TLS; give the CA that"
            " signed its certificate (--tls-ca, tls_ca), or reach it through a tunnel on loopback"
        )


def is_here(address: str) -> bool:
    """Whether an address is of this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    if address.startswith("unix:") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name: it may be anywhere


def read_token(name: str, path: Path | str | None) -> str | None:
    """The token in a file, else in the environment, else None. Raises ConfigError."""
    where = TOKEN_VARIABLE if path is None else f"{name} {path}"
    text = os.environ.get(TOKEN_VARIABLE) if path is None else _read(name, path).decode("latin-1")
    if text is None:
        return None
    token = text.strip()
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise ConfigError(
            f"{where}: got a token of {len(token)} characters, allowed printable ASCII of at least"
            f" {SHORTEST_TOKEN}; make one with: openssl rand -hex 32"
        )
    return token


def _check_pair(
    name: str, cert: Path | str | None, key: Path | str | None, ca: Path | str | None
) -> None:
    """Raise ConfigError unless certificate, key and CA can be used: gRPC tells its log alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    file: object = cert
    try:
        if cert is not None:
            # A password would be asked for at the terminal.
            context.load_cert_chain(place(cert), None if key is None else place(key), password="")
        file = ca
        if ca is not None:
            context.load_verify_locations(place(ca))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{name}: cannot use {file} ({error.strerror or error}); allowed PEM files of a"
            " certificate chain and of its unencrypted key"
        ) from None


def _read(name: str, path: Path | str) -> bytes:
    try:
        return place(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{name} {path}: cannot be read: {error.strerror}") from None


def _pem(name: str, path: Path | str | None) -> bytes | None:
    return None if path is None else _read(name, path)
