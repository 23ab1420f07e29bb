"""Clients' connection to a run's services, found by the run folder or by an address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from pydantic import TypeAdapter, ValidationError

from rhoselect.errors import ConfigError, RunFolderError, ServiceError
from rhoselect.protos import control_pb2 as pb
from rhoselect.protos.control_pb2_grpc import ControlStub
from rhoselect.service.channel import FILE_NAME, open_channel
from rhoselect.service.errors import status_to_errors
from rhoselect.service.security import Security, is_here
from rhoselect.trainer.control import REQUEST_S
from rhoselect.trainer.driver import Driver, driver_of
from rhoselect.trainer.resuming import WHOSE, how_to_resume, kind_of

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


@contextmanager
def control_of(target: Target) -> Iterator[ControlStub]:
    """The Control service of a running run: see `channel_of`."""
    with channel_of(target) as channel:
        yield ControlStub(channel)  # type: ignore[no-untyped-call]


@contextmanager
def channel_of(target: Target) -> Iterator[grpc.Channel]:
    """A channel to a running run's services. Raises RunFolderError if the run of the folder has
    ended, ServiceError if it lives, or may live, and cannot be reached, ConfigError if
    ``target.run`` is no folder and no address, and the service's errors."""
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
    """What the run's driver wrote there. Raises RunFolderError if the run has ended or never has a
    service, ServiceError if it lives and has none that can be found."""
    if kind_of(folder) == "local":
        raise RunFolderError(
            f"run folder {folder}: is {WHOSE['local']} and serves nothing; allowed one of rhoctl"
            " train or rhoctl serve; look at its eval.jsonl, or at rhoctl report when it has ended"
        )
    driver = driver_of(folder)
    try:
        entry = TypeAdapter(Entry).validate_json((folder / FILE_NAME).read_bytes())
    except FileNotFoundError:
        if driver is not None and driver.lives:
            raise ServiceError(
                f"run folder {folder}: {driver} runs it, but serves nothing yet (or is about to"
                " end); ask again"
            ) from None
        ended = "it is finished" if (folder / "summary.json").exists() else _resume(folder)
        raise RunFolderError(
            f"run folder {folder}: no run is going on there (no {FILE_NAME}); {ended}"
        ) from None
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not what a run writes"
        raise ServiceError(
            f"run folder {folder}: {FILE_NAME} cannot be read ({reason}), so its run cannot be"
            f" reached; {_whether_ended(folder, driver)}"
        ) from None
    _check_may_live(entry, folder, driver)
    return entry


def _check_may_live(entry: Entry, folder: Path, driver: Driver | None) -> None:
    """Raise an error unless the service of ``entry`` may be the run's. Another process may have
    taken the port of one that has ended, and must not receive the token."""
    if driver is None:
        return
    if driver.lives is False:
        raise RunFolderError(
            f"run folder {folder}: no run is going on there: {FILE_NAME} was left by {driver},"
            f" which has ended; {_resume(folder)}"
        )
    if not driver.is_here and is_here(entry.address):
        raise ServiceError(
            f"run folder {folder}: {driver} runs it and serves at {entry.address}, which only that"
            " machine reaches; ask there"
        )


def _check_own(channel: grpc.Channel, entry: Entry, folder: Path) -> None:
    """Raise RunFolderError if another run than this folder's answers, ServiceError if none does."""
    stub = ControlStub(channel)  # type: ignore[no-untyped-call]
    driver = driver_of(folder)
    try:
        with status_to_errors(entry.address):
            run_id = stub.Status(pb.StatusRequest()).status.run_id
    except ServiceError as error:
        if driver is not None and driver.lives is False:  # it has just ended
            raise RunFolderError(
                f"run folder {folder}: no run is going on there any more; {_resume(folder)}"
            ) from None
        raise ServiceError(f"{error}; {_whether_ended(folder, driver)}") from None
    if run_id != entry.run_id:
        raise RunFolderError(
            f"run folder {folder}: another run answers at {entry.address}, the address in"
            f" {FILE_NAME}; {_whether_ended(folder, driver)}"
        )


def _whether_ended(folder: Path, driver: Driver | None) -> str:
    """What to do about a run that cannot be reached."""
    if driver is not None and driver.lives:
        return f"{driver} lives and runs it, so leave its folder alone"
    who = "its process" if driver is None else str(driver)
    return f"if {who} has ended, {_resume(folder)}"


def _resume(folder: Path) -> str:
    return f"continue with: {how_to_resume(folder)}"
