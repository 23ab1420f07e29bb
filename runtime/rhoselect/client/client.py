"""``SelectionClient``: the batches most worth learning, for a loop with its own optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, Unpack

import torch
from torch import Tensor, nn

from rhoselect.client.agreeing import all_losses, check_losses
from rhoselect.client.batch import SelectionBatch
from rhoselect.client.local import local_backend, user_data_backend
from rhoselect.client.options import ClientOptions, Options, check_together, checked
from rhoselect.client.own_model import check_module
from rhoselect.client.weights import OwnWeights
from rhoselect.config import Config
from rhoselect.errors import ConfigError, UserError
from rhoselect.models.frozen import Frozen
from rhoselect.ranks import Exchange
from rhoselect.ranks.loops import group_of_loop
from rhoselect.selector.start import Start, packed, unpacked
from rhoselect.types import Layout


class Backend(Protocol):
    """The source of batches: this process, or a service."""

    config: Config
    first_index: int
    steps: int
    lag: int
    layout: Layout
    frozen: Frozen
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

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record values after ``step`` steps; also after ``close``."""
        ...

    def checkpoint(self, step: int) -> Start:
        """Where a loop goes on that has taken ``step`` steps. Raises UserError if it cannot."""
        ...

    def load(self, start: Start) -> None:
        """Go on from ``start``, in a new session. Raises UserError if that cannot be."""
        ...

    def close(self) -> None:
        """End the session and free its resources."""
        ...


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
    it the cross-entropy of (inputs, integer label) pairs, and ``irreducible_losses`` [N] those of
    its N points, or the path of their table. Items must depend on their index alone, and may be
    read in another thread. With ``workers`` as many threads score on the CPU at the same time, with
    the same result.

    Where torch.distributed has several processes, as under torchrun, all make a client and call it
    alike. Rank r of k gets rows r::k of each batch, so k must divide n_b, and a mean over ranks is
    the mean of the batch. With ``local=True`` all score; a service is asked by all and told by rank
    0, which alone keeps records. With ``alone=True`` this process selects for itself.

    A loop leaves a run folder behind, which ``rhoctl report`` reads: with an address that of the
    service, else ``run_dir``, by default a new one below runs/, none if None.

    ``step`` is the first step of a loop that resumes, or what ``state_dict`` gave there; ``model``
    then has the weights after those steps. With ``run_dir`` the folder of the earlier steps
    goes on. ``config`` is the configuration that selects, of a service its own; indices minus
    ``first_index`` are places in ``data``.

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
        step: int | Mapping[str, Any] = 0,
        **options: Unpack[ClientOptions],
    ) -> None:
        check_module(model)
        start = Start(step) if isinstance(step, int) else unpacked(step)
        self._model, self._step, self._published = model, start.step, -1
        self._batch: SelectionBatch | None = None  # the one that the loop trains on
        self._device = next((p.device for p in model.parameters()), torch.device("cpu"))
        given = checked(options)
        check_together(local, address, config, data is not None, given)
        self._group = group = group_of_loop(given.alone, given.timeout_s)
        self._backend: Backend
        if address is not None:
            self._backend = _remote_backend(address, start, data, given, group)
        elif data is not None:
            self._backend = user_data_backend(config or {}, model, data, given, start, group)
        else:
            self._backend = local_backend(config or {}, model, given, start, group)
        self.config, self.first_index = self._backend.config, self._backend.first_index
        self._weights = OwnWeights(self._backend.layout, self._backend.frozen, group.size)
        try:
            self._weights.of(model)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[SelectionBatch]:
        """The batches of the remaining steps. Raises UserError unless the loop calls ``step``."""
        while self._step < self._backend.steps:
            if self._batch is not None:
                raise UserError(
                    f"step {self._step}: the next batch was asked for without selection.step(model)"
                    " after this one's; call it when the optimizer has taken its step"
                )
            self._publish(self._model)
            self._batch = batch = self._backend.next(self._step, self._device)
            yield batch
        self.close()

    def step(self, model: nn.Module, losses: Tensor | None = None) -> None:
        """Report that ``model`` has taken its optimizer step on the batch, so that scoring of the
        next one begins.

        ``losses`` [n_b]: the losses of the batch in nats, before the step. Some methods (REDUCR)
        need them; the service shows their mean. Each rank gives those of its share.
        """
        batch = self._batch
        if batch is None:
            raise UserError("selection.step: called without a batch, allowed once after each")
        check_losses(losses, self._backend.needs_losses)
        every = all_losses(self._group, self._step, losses, len(batch.indices))
        if every is not None:
            self._backend.report(self._step, every)
        self._batch = None
        self._step += 1
        self._model = model
        self._publish(model)

    def log(self, step: int, **values: float) -> None:
        """Record what the loop measured after ``step`` optimizer steps, also after the last batch::

            selection.log(step, accuracy=0.91, loss=0.3)

        ``accuracy``, a share from 0 to 1, is what ``rhoctl report`` compares. Of several ranks, 0
        alone records. Raises UserError."""
        try:
            numbers = {name: float(value) for name, value in values.items()}
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"log: got a value that is no number ({error})") from None
        if self._group.rank == 0:
            self._backend.log(step, numbers)

    def state_dict(self) -> dict[str, Any]:
        """What selection needs to go on from here, beside the loop's model and optimizer: strings,
        integers and tensors on the CPU. Call it between ``step`` and the next batch. Raises
        UserError for a service at lag >= 1, or whose method has a state."""
        if self._batch is not None:
            raise UserError(
                f"state_dict: called between the batch of step {self._step} and selection.step,"
                " allowed after it; a checkpoint is of whole steps"
            )
        return packed(self._backend.checkpoint(self._step), self._backend.layout, self._backend.lag)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was called; load model and optimizer, too. A local loop keeps
        the folder of this client. Raises UserError for the state of another selection."""
        start = unpacked(state)
        self._backend.load(start)
        self._step, self._published, self._batch = start.step, -1, None

    def close(self) -> None:
        """End the session. The iterator calls this after the last batch. It may be repeated."""
        self._backend.close()

    def _publish(self, model: nn.Module) -> None:
        if self._published == self._step:  # by `step`, before the next batch was asked for
            self._weights.check(model)
            return
        last = self._step == self._backend.steps
        self._backend.publish(self._step, self._weights.of(model, exact=last))
        self._published = self._step

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _remote_backend(
    address: str, start: Start, data: Any, given: Options, group: Exchange
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
    security = Security.of_client(given.token_file, given.tls_ca, given.tls_cert, given.tls_key)
    return Remote(address, security, start, data, given.collate_fn, given.timeout_s, group)
