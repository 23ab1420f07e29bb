"""Clients' connection to a run's services, found by the run folder or by an address."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from pydantic import TypeAdapter, ValidationError

from rhoselect.errors import ConfigError, RunFolderError, ServiceError
from rhoselect.protos import control_pb2 as pb
from rhoselect.protos.control_pb2_grpc import ControlStub
from rhoselect.service.channel import FILE_NAME, open_channel, pid_namespace
from rhoselect.service.errors import status_to_errors
from rhoselect.service.security import Security
from rhoselect.trainer.control import REQUEST_S

DEADLINE_S = REQUEST_S + 10.0  # longer than the service waits, so that its error arrives


@dataclass(frozen=True)
class Target:
    """The service to call: ``run`` is a run folder or an address; the rest are credentials."""

    run: str
    token_file: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def security(self, token_file: str | None) -> Security:
        """What to show; ``token_file`` if none was given."""
        token = self.token_file or token_file
        return Security.of_client(token, self.tls_ca, self.tls_cert, self.tls_key)


@dataclass(frozen=True)
class Entry:
    """What the driver of a run writes into its folder: see ``Control.found``."""

    address: str
    pid: int
    run_id: str
    token_file: str | None
    tls: bool
    pid_namespace: str | None = None


@contextmanager
def control_of(target: Target) -> Iterator[ControlStub]:
    """The Control service of a running run: see `channel_of`."""
    with channel_of(target) as channel:
        yield ControlStub(channel)  # type: ignore[no-untyped-call]


@contextmanager
def channel_of(target: Target) -> Iterator[grpc.Channel]:
    """A channel to a running run's services. Raises RunFolderError if no run is running in the
    folder, ConfigError if ``target.run`` is no folder and no address, and the service's errors."""
    folder = Path(target.run)
    if not folder.is_dir():
        if ":" not in target.run:
            raise ConfigError(
                f"RUN: got {target.run!r}, allowed the folder of a run or the host:port of its"
                " service"
            )
        with _talk(target.run, target.security(None)) as channel:
            yield channel
        return
    entry = _entry(folder)
    if entry.tls and target.tls_ca is None:
        raise ConfigError("--tls-ca: got none, but the service of this run asks for TLS; give it")
    with _talk(entry.address, target.security(entry.token_file)) as channel:
        _check_own(channel, entry, folder)
        yield channel


def statuses(stub: ControlStub, interval_s: float) -> Iterator[pb.RunStatus]:
    """The status of a run every ``interval_s`` seconds until it ends."""
    request = pb.WatchRequest(interval_s=interval_s)
    while True:
        try:
            for response in stub.Watch(request, timeout=DEADLINE_S):
                yield response.status
            return
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                raise


@contextmanager
def _talk(address: str, security: Security) -> Iterator[grpc.Channel]:
    with status_to_errors(address), open_channel(address, security, DEADLINE_S) as channel:
        yield channel


def _entry(folder: Path) -> Entry:
    """What the run's driver wrote there. Raises RunFolderError."""
    try:
        text = (folder / FILE_NAME).read_bytes()
    except OSError:
        ended = "it is finished" if (folder / "summary.json").exists() else _resume(folder)
        raise RunFolderError(
            f"run folder {folder}: no run is going on there (no {FILE_NAME}); {ended}"
        ) from None
    try:
        entry = TypeAdapter(Entry).validate_json(text)
    except ValidationError:
        raise RunFolderError(
            f"run folder {folder}: {FILE_NAME} cannot be read; remove it; {_resume(folder)}"
        ) from None
    if _is_left(entry, folder / FILE_NAME):
        raise RunFolderError(
            f"run folder {folder}: no run is going on there: {FILE_NAME} was left by process"
            f" {entry.pid}, which is no more; {_resume(folder)}"
        )
    return entry


def _is_left(entry: Entry, path: Path) -> bool:
    """Whether the process that wrote an entry is known to have ended. If so, another process may
    have its port and must not receive the token. TLS and a Unix socket prevent that already."""
    here = pid_namespace()
    if here is None or entry.pid_namespace != here:
        return False  # another machine or container, whose processes we do not see
    if entry.tls or entry.address.startswith("unix:"):
        return False
    try:
        return os.stat(f"/proc/{entry.pid}").st_uid != path.stat().st_uid
    except OSError:
        return True


def _check_own(channel: grpc.Channel, entry: Entry, folder: Path) -> None:
    """Raise RunFolderError if another run than this folder's answers."""
    stub = ControlStub(channel)  # type: ignore[no-untyped-call]
    try:
        with status_to_errors(entry.address):
            run_id = stub.Status(pb.StatusRequest()).status.run_id
        reason = "another run answers at its address"
    except ServiceError as error:
        run_id, reason = None, str(error)
    if run_id != entry.run_id:
        raise RunFolderError(
            f"run folder {folder}: no run is going on there: {FILE_NAME} was left by process"
            f" {entry.pid} ({reason}); {_resume(folder)}"
        )


def _resume(folder: Path) -> str:
    return f"continue with: rhoctl train --resume --run-dir {folder}; or serve, if it was served"
