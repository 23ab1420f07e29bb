"""Batches from a service. Calls that could not reach it are repeated; a repeated call has no second
effect."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from rhoselect import config as configuration
from rhoselect.client.batch import Collate, SelectionBatch, collate, selection_batch
from rhoselect.client.user_data import user_join
from rhoselect.data import SplitPoints, open_data, train_points
from rhoselect.errors import DataError, RunError, ServiceError, UserError
from rhoselect.models.frozen import Frozen
from rhoselect.nest import Nest, moved, rebuilt
from rhoselect.protos import selection_pb2 as pb
from rhoselect.protos.selection_pb2_grpc import SelectionStub
from rhoselect.ranks import Exchange
from rhoselect.ranks.loops import by_lead
from rhoselect.selector.start import Start, check_settings, settings_of
from rhoselect.service import blobs
from rhoselect.service.channel import open_channel
from rhoselect.service.errors import status_to_errors
from rhoselect.service.security import Security
from rhoselect.tasks import get_task
from rhoselect.types import Batch, Indices

CPU = torch.device("cpu")
OPEN_S = 60.0  # long, because the service may first have to stop the scorers of the last session
AGAIN_S = (0.1, 0.5, 2.0, 5.0)
_T = TypeVar("_T")


class Remote:
    """A session of the service at ``address``, from its opening on.

    Of the ranks of ``group`` rank 0 opens and closes it and publishes, and each asks for its share
    of a batch.
    """

    def __init__(
        self,
        address: str,
        security: Security,
        start: Start,
        data: Any,
        join: Collate | None,
        timeout_s: float,
        group: Exchange,
    ) -> None:
        self._address, self._timeout_s, self._group = address, timeout_s, group
        self._security = security
        self._channel = open_channel(address, security)
        self._stub = SelectionStub(self._channel)  # type: ignore[no-untyped-call]
        self._open = False
        try:
            run = self._open_run(start.step)
            self._settings = settings_of(
                config := configuration.from_json(run.config_json), run.points
            )
            check_settings(start, self._settings)
            self.config, self.first_index, self.lag = config, run.first_index, config.selection.lag
            self.steps: int = run.steps
            self.layout = blobs.from_specs(run.layout)
            self.frozen = Frozen(dict(run.frozen))
            self.needs_losses: bool = run.needs_losses
            self._join = user_join(config, join)
            self._data = _open_copy(data, self._join, run)
        except BaseException:
            self.close()
            raise

    def _open_run(self, step: int) -> Any:
        request = pb.OpenRunRequest(step=step, ranks=self._group.size)

        def ask() -> bytes:
            with status_to_errors(self._address):
                answer: bytes = self._stub.OpenRun(request, timeout=OPEN_S).SerializeToString()
            self._open = True
            return answer

        run = pb.OpenRunResponse.FromString(by_lead(self._group, ask))
        self._session = run.session
        return run

    def checkpoint(self, step: int) -> Start:
        """Where a loop goes on that has taken ``step`` steps. Raises UserError at lag >= 1."""
        if self.lag or self.needs_losses:
            raise UserError(
                f"state_dict: got a served run with selection.lag = {self.lag}"
                f"{' and a method with a state' * self.needs_losses}, allowed lag 0 and a method"
                " without a state: a service does not give them away; select with local=True"
            )
        return Start(step, {}, (), self._settings)

    def load(self, start: Start) -> None:
        """Open another session. Raises UserError for a step that cannot be its first."""
        check_settings(start, self._settings)
        self._open_run(start.step)

    def publish(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Send the weights, cast to the dtypes that scorers use, if any are needed. All ranks wait
        until they are there."""
        if self.layout:
            by_lead(self._group, lambda: self._send(version, tensors))

    def _send(self, version: int, tensors: Mapping[str, Tensor]) -> bytes:
        blob = blobs.pack(tensors, self.layout)
        head = pb.PublishSnapshotHeader(
            session=self._session, version=version, blob=blobs.header(blob)
        )

        def messages() -> Iterator[pb.PublishSnapshotRequest]:
            yield pb.PublishSnapshotRequest(header=head)
            for chunk in blobs.chunks(blob):
                yield pb.PublishSnapshotRequest(chunk=chunk)

        self._again(lambda: self._stub.PublishSnapshot(messages(), timeout=self._timeout_s))
        return b""

    def next(self, step: int, device: torch.device) -> SelectionBatch:
        """The batch of a step. The service sends the inputs if the loop has no copy of the data."""
        header, tensors, content = self._again(lambda: self._ask(step))
        indices, weights = tensors["indices"].numpy(), tensors["weights"].to(device)
        inputs, labels = content.get("inputs"), content.get("labels")
        if self._data is not None:
            own = selection_batch(step, self._read(indices, tensors["epochs"].numpy()), weights)
            inputs, labels = own.inputs, own.labels if labels is None else labels
        inputs, labels = moved(inputs, device), moved(labels, device)
        batch = SelectionBatch(step, tensors["indices"], inputs, labels, weights)
        agreement = header.rank_agreement if header.HasField("rank_agreement") else None
        scores, version = tensors["scores"], header.version
        return replace(batch, scores=scores, version=version, agreement=agreement)

    def report(self, step: int, losses: Tensor) -> None:
        """Send the losses of the last batch. All ranks wait until they are there, as none may ask
        for the next one before."""
        request = pb.ReportRequest(session=self._session, step=step, losses=losses.float().tolist())

        def tell() -> bytes:
            self._again(lambda: self._stub.Report(request))
            return b""

        by_lead(self._group, tell)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send what the loop measured, also after ``close``."""
        request = pb.LogRequest(session=self._session, step=step, values=values)
        if self._open:
            self._again(lambda: self._stub.Log(request))
            return
        with open_channel(self._address, self._security) as channel:
            stub = SelectionStub(channel)  # type: ignore[no-untyped-call]
            self._again(lambda: stub.Log(request))

    def close(self) -> None:
        """End the session. Ignore errors: the service may have ended."""
        if self._open:
            self._open = False
            try:
                with status_to_errors(self._address):
                    self._stub.Close(pb.CloseRequest(session=self._session))
            except RunError:
                pass
        self._channel.close()

    def _read(self, indices: Indices, epochs: Indices) -> Batch:
        """The loop's copy of these points."""
        if isinstance(self._data, SplitPoints):
            return self._data.read(indices, CPU, epochs)
        return Batch(indices, collate(self._data, indices - self.first_index, self._join))

    def _ask(self, step: int) -> tuple[Any, dict[str, Tensor], dict[str, Nest]]:
        request = pb.NextBatchRequest(
            session=self._session,
            step=step,
            with_inputs=self._data is None,
            rank=self._group.rank,
        )
        parts = self._stub.NextBatch(request, timeout=self._timeout_s)
        header = next(parts).header
        arriving = blobs.Arriving(header.blob)
        for part in parts:
            arriving.add(part.chunk)
        tensors = arriving.tensors()
        return header, tensors, rebuilt(json.loads(header.content), tensors)

    def _again(self, call: Callable[[], _T]) -> _T:
        for pause_s in AGAIN_S:
            try:
                with status_to_errors(self._address):
                    return call()
            except ServiceError:
                time.sleep(pause_s)
        with status_to_errors(self._address):
            return call()


def _open_copy(data: Any, join: Collate, run: pb.OpenRunResponse) -> Any:
    """The loop's copy of the points: a split, a map-style data set, or None. Raises DataError."""
    if data is None:
        return None
    if not isinstance(data, str | Path):
        points = len(data) if hasattr(data, "__len__") else None
        if points != run.points:
            raise DataError(
                f"data: got {points} points, allowed the {run.points} of the service's train split,"
                " in its order"
            )
        collate(data, np.arange(1), join)
        return data
    config = configuration.from_json(run.config_json)
    here = config.data.model_dump() | {"path": str(data), "dataset": None}
    mine = configuration.parse(config.model_dump() | {"data": here})
    dataset = open_data(mine.data, task=get_task(mine.task))
    if dataset.fingerprint != run.fingerprint:
        raise DataError(
            f"data {data}: got fingerprint {dataset.fingerprint[:12]}, allowed the service's"
            f" {run.fingerprint[:12]}: its points are others"
        )
    return train_points(mine, dataset)
