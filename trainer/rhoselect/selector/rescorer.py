"""Scores computed in the selector's own process, outside the queue: second stages and audits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from rhoselect.compute import threads
from rhoselect.errors import WaitError
from rhoselect.inputs import SelectionInputs
from rhoselect.metrics import Metrics
from rhoselect.models.replica import Replica
from rhoselect.selection.interface import State
from rhoselect.snapshots import SnapshotStore
from rhoselect.types import Features, Positions, Scores


class Rescorer:
    """Scores any positions, in chunks of ``selection.chunk``, with the bits that scorers compute.

    The newest weights are loaded when they are first needed.
    """

    def __init__(
        self,
        inputs: SelectionInputs,
        replica: Replica,
        snapshots: SnapshotStore,
        metrics: Metrics,
    ) -> None:
        self._config, self._plan, self._points = inputs.config, inputs.plan, inputs.train
        self._scoring, self._replica = inputs.scoring, replica
        self._snapshots, self._metrics = snapshots, metrics
        self._newest: Mapping[str, Tensor] = {}
        self._has_newest = False

    def follow(self, tensors: Mapping[str, Tensor]) -> None:
        """Take ``tensors`` as the newest weights. They are read later, when a score needs them."""
        self._newest, self._has_newest = tensors, False

    def fresh(self, positions: Positions, state: State) -> tuple[Scores, Features | None]:
        """Scores [N] and payload [N, F] of ``positions`` [N] under the newest weights."""
        with self._metrics.busy("refine"):
            if self._scoring.needs.forward and not self._has_newest:
                self._replica.load((name, self._newest[name]) for name in self._replica.layout)
                self._has_newest = True
            return self._score(positions, state)

    def stale(self, positions: Positions, version: int) -> Scores:
        """Scores [N] of ``positions`` [N] under the snapshot ``version``. Raises WaitError if the
        store does not have it within queue.timeout_s."""
        with self._metrics.busy("audit"):
            if not self._scoring.needs.forward:  # no weights are published or needed
                return self._score(positions, {})[0]
            timeout_s, self._has_newest = self._config.queue.timeout_s, False
            state = self._snapshots.load(version, self._replica.load, timeout_s)
            if state is None:
                raise WaitError(
                    f"audit: snapshot {version} was not available within {timeout_s:g} s"
                    " (queue.timeout_s); see logs/"
                )
            return self._score(positions, state)[0]

    def _score(self, positions: Positions, state: State) -> tuple[Scores, Features | None]:
        chunk, device = self._config.selection.chunk, self._replica.device
        indices, epochs = self._plan.indices(positions), self._plan.epochs(positions)
        scores, rows = [], []
        with threads(self._config.scorer.threads):
            for start in range(0, len(indices), chunk):
                part, when = indices[start : start + chunk], epochs[start : start + chunk]
                output = None
                if self._scoring.needs.forward:
                    output = self._replica(self._points.read(part, device, when))
                values, features = self._scoring(part, output, state)
                scores.append(values)
                rows += [] if features is None else [features]
        return np.concatenate(scores), np.concatenate(rows) if rows else None
