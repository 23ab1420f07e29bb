"""``SelectionClient``: the batches most worth learning, for a loop with its own optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from rhoselect.client.batch import Collate, SelectionBatch
from rhoselect.client.local import local_backend, user_data_backend
from rhoselect.client.user_data import Losses, UserPoints
from rhoselect.errors import ConfigError, UserError, listed
from rhoselect.selector.session import check_tensors
from rhoselect.types import Layout

WAIT_S = 600.0


class Backend(Protocol):
    """The source of batches: this process, or a service."""

    steps: int
    layout: Layout
    needs_losses: bool

    def publish(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Hand over the weights after ``version`` steps."""
        ...

    def next(self, step: int, device: torch.device) -> SelectionBatch:
        """The batch of a step; waits until it is selected."""
        ...

    def report(self, step: int, losses: Tensor) -> None:
        """The losses [n_b] of the last batch."""
        ...

    def close(self) -> None:
        """End the session and free its resources."""
        ...


class ClientOptions(TypedDict, total=False):
    """The less frequent arguments of ``SelectionClient``, which describes them."""

    collate_fn: Collate
    losses: Losses | None
    irreducible_losses: Any
    token_file: Path | str | None
    tls_ca: Path | str | None
    tls_cert: Path | str | None
    tls_key: Path | str | None
    timeout_s: float


@dataclass(frozen=True)
class _Options:
    """``ClientOptions`` with their defaults."""

    collate_fn: Collate = default_collate
    losses: Losses | None = None
    irreducible_losses: Any = None
    token_file: Path | str | None = None
    tls_ca: Path | str | None = None
    tls_cert: Path | str | None = None
    tls_key: Path | str | None = None
    timeout_s: float = WAIT_S


class SelectionClient:
    """Selects for a loop of your own, in ``trainer.steps`` steps::

        selection = SelectionClient(model, "127.0.0.1:50051", token_file="token")
        for batch in selection:
            losses = F.cross_entropy(model(batch.inputs), batch.labels, reduction="none")
            optimizer.zero_grad()
            (losses * batch.weights).mean().backward()
            optimizer.step()
            selection.step(model)

    With an ``address`` the service ``rhoctl serve`` there selects, and sends the points unless
    ``data`` is given: a folder that ``rhoctl data import`` made, or a map-style data set of the
    same points in the same order. ``token_file`` (or the environment variable
    RHOSELECT_SERVICE_TOKEN) has its token; ``tls_ca``, and for mutual TLS ``tls_cert`` and
    ``tls_key``, are PEM files. ``timeout_s`` bounds the wait for a batch.

    With ``local=True`` this process selects, as ``config`` says: a TOML file, or a mapping of
    sections. ``data`` may then be a map-style data set of your own, whose items ``collate_fn``
    joins; ``losses(model, batch)`` are the [C] losses of a ``SelectionBatch`` of C points, without
    it the cross-entropy of (inputs, label) pairs, and ``irreducible_losses`` [N] those of its N
    points. Items must depend on their index alone, and may be read in another thread.

    ``step`` is the first step of a loop that resumes; ``model`` then has the weights after ``step``
    optimizer steps.

    The constructor raises UserError for a configuration, data, losses, a model or a token that
    cannot be used; ServiceError if the service cannot be reached. Later calls raise RunError, among
    them FencedError once another client has opened a session of the run.
    """

    def __init__(
        self,
        model: nn.Module,
        address: str | None = None,
        *,
        config: Path | str | Mapping[str, Any] | None = None,
        local: bool = False,
        data: Any = None,
        step: int = 0,
        **options: Unpack[ClientOptions],
    ) -> None:
        self._model, self._step, self._given = model, step, False
        self._device = next((p.device for p in model.parameters()), torch.device("cpu"))
        given = _checked(options)
        secured = (given.token_file, given.tls_ca, given.tls_cert, given.tls_key)
        own = (given.losses, given.irreducible_losses)
        _check_arguments(local, address, config, data is not None, secured, own)
        self._backend: Backend
        if address is not None:
            self._backend = _remote_backend(address, secured, step, data, given)
        elif data is not None:
            points = UserPoints(data, given.collate_fn)
            self._backend = user_data_backend(config or {}, model, points, *own, step)
        else:
            self._backend = local_backend(config or {}, step)
        try:
            check_tensors(model.state_dict(), self._backend.layout)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[SelectionBatch]:
        """The batches of the remaining steps. Raises UserError unless the loop calls ``step``."""
        while self._step < self._backend.steps:
            if self._given:
                raise UserError(
                    f"step {self._step}: the next batch was asked for without selection.step(model)"
                    " after this one's; call it when the optimizer has taken its step"
                )
            self._publish(self._model)  # of the first batch; a step has done so for the others
            batch = self._backend.next(self._step, self._device)
            self._given = True
            yield batch
        self.close()

    def step(self, model: nn.Module, losses: Tensor | None = None) -> None:
        """Report that ``model`` has taken its optimizer step on the batch, so that scoring of the
        next one begins.

        ``losses`` [n_b]: the losses of the batch in nats, before the step. Some methods (REDUCR)
        need them; the service shows their mean.
        """
        if not self._given:
            raise UserError("selection.step: called without a batch, allowed once after each")
        if losses is not None:
            self._backend.report(self._step, losses.detach())
        elif self._backend.needs_losses:
            raise UserError(
                "selection.step: called without losses, which this selection.function needs;"
                " call step(model, losses) with those of the batch [n_b]"
            )
        self._given = False
        self._step += 1
        self._model = model
        if self._step < self._backend.steps:
            self._publish(model)

    def close(self) -> None:
        """End the session. The iterator calls this after the last batch. It may be repeated."""
        self._backend.close()

    def _publish(self, model: nn.Module) -> None:
        if self._backend.layout:
            self._backend.publish(self._step, model.state_dict())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _checked(options: ClientOptions) -> _Options:
    """The options with their defaults. Raises ConfigError for an unknown one."""
    known = [field.name for field in fields(_Options)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ConfigError(
            f"SelectionClient: got {listed(unknown)}, allowed model, address, config, local,"
            f" data, step, {', '.join(known)}"
        )
    return _Options(**options)


def _remote_backend(
    address: str, secured: tuple[Any, Any, Any, Any], step: int, data: Any, given: _Options
) -> Backend:
    """Selection by a service: only this needs gRPC. Raises ConfigError if that is missing."""
    try:
        from rhoselect.client.remote import Remote
        from rhoselect.service.security import Security
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"SelectionClient: got an address and no package {error.name!r}, which it needs;"
            " install it with pip install 'rhoselect[service]'"
        ) from None
    security = Security.of_client(*secured)
    return Remote(address, security, step, data, given.collate_fn, given.timeout_s)


def _check_arguments(
    local: bool, address: str | None, config: Any, data: bool, secured: Any, own: Any
) -> None:
    """Raise ConfigError for arguments that do not go together."""
    given_secured, given_own = (any(x is not None for x in each) for each in (secured, own))
    if local == (address is not None) or local == (config is None):
        raise ConfigError(
            "SelectionClient: allowed an address, or local=True and config=…: a service has its own"
            " configuration"
        )
    if local and given_secured:
        raise ConfigError(
            "SelectionClient: got token_file, tls_ca, tls_cert or tls_key, allowed with an address"
        )
    if given_own and not (local and data):
        raise ConfigError(
            "SelectionClient: got losses or irreducible_losses, allowed with local=True and data=…,"
            " a data set of your own"
        )
