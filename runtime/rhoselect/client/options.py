"""The arguments of ``SelectionClient``, checked."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from types import EllipsisType
from typing import Any, TypedDict

from rhoselect.client.batch import Collate
from rhoselect.client.user_data import LossFunction
from rhoselect.errors import ConfigError, listed
from rhoselect.queue.base import HELPERS

WAIT_S = 600.0


class ClientOptions(TypedDict, total=False):
    """The less frequent arguments of ``SelectionClient``, which describes them."""

    collate_fn: Collate | None
    losses: LossFunction | None
    irreducible_losses: Any
    token_file: Path | str | None
    tls_ca: Path | str | None
    tls_cert: Path | str | None
    tls_key: Path | str | None
    timeout_s: float
    run_dir: Path | str | EllipsisType | None
    workers: int
    alone: bool


@dataclass(frozen=True)
class Options:
    """``ClientOptions`` with their defaults."""

    collate_fn: Collate | None = None
    losses: LossFunction | None = None
    irreducible_losses: Any = None
    token_file: Path | str | None = None
    tls_ca: Path | str | None = None
    tls_cert: Path | str | None = None
    tls_key: Path | str | None = None
    timeout_s: float = WAIT_S
    run_dir: Path | str | EllipsisType | None = ...
    workers: int = 0
    alone: bool = False


def checked(options: ClientOptions) -> Options:
    """The options with their defaults. Raises ConfigError for an unknown one."""
    known = [field.name for field in fields(Options)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ConfigError(
            f"SelectionClient: got {listed(unknown)}, allowed model, address, config, local,"
            f" data, step, {', '.join(known)}"
        )
    return Options(**options)


def check_together(
    local: bool, address: str | None, config: Any, data: bool, given: Options
) -> None:
    """Raise ConfigError for arguments that do not go together."""
    secured = (given.token_file, given.tls_ca, given.tls_cert, given.tls_key)
    own = (given.losses, given.irreducible_losses)
    if local == (address is not None) or local == (config is None):
        raise ConfigError(
            "SelectionClient: allowed an address, or local=True and config=…: a service has its own"
            " configuration"
        )
    if local and any(each is not None for each in secured):
        raise ConfigError(
            "SelectionClient: got token_file, tls_ca, tls_cert or tls_key, allowed with an address"
        )
    if address is not None and given.run_dir is not ...:
        raise ConfigError(
            f"SelectionClient: got run_dir {str(given.run_dir)!r} with an address, allowed with"
            " local=True: a service has a run folder of its own"
        )
    if not 0 <= given.workers <= HELPERS:
        raise ConfigError(
            f"SelectionClient: got workers = {given.workers}, allowed 0 to {HELPERS} threads"
        )
    if address is not None and given.workers:
        raise ConfigError(
            f"SelectionClient: got workers = {given.workers} with an address, allowed with"
            " local=True: a service has its own, rhoctl serve --workers N"
        )
    if any(each is not None for each in own) and not (local and data):
        raise ConfigError(
            "SelectionClient: got losses or irreducible_losses, allowed with local=True and data=…,"
            " a data set of your own"
        )
