"""Scores computed in the selector's own process, outside the queue: second stages and audits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from rhoselect.compute import enough_memory, threads
from rhoselect.errors import WaitError
from rhoselect.inputs import SelectionInputs
from rhoselect.metrics import Metrics
from rhoselect.models.replica import Replica
from rhoselect.scorer.weights import Weights
from rhoselect.selection.interface import State
from rhoselect.types import Features, Positions, Scores


class Rescorer:
    """Scores any positions, in chunks of ``selection.chunk``, with the bits that scorers compute.

    ``stale`` are the weights of the scorer in this process. ``fresh`` take those of the model that
    trains, when they are needed: the same object, on the same replica, but in a run with a proxy.
    """

    def __init__(
        self, inputs: SelectionInputs, stale: Weights, fresh: Weights, metrics: Metrics
    ) -> None:
        self._config, self._plan, self._points = inputs.config, inputs.plan, inputs.train
        self._scoring, self._metrics = inputs.scoring, metrics
        self._stale_weights, self._fresh_weights = stale, fresh
        self._newest: Mapping[str, Tensor] = {}

    def follow(self, tensors: Mapping[str, Tensor]) -> None:
        """Take ``tensors`` as the newest weights. They are read later, when a score needs them."""
        self._newest = dict(tensors)  # a new object, even for tensors that changed in place

    def fresh(self, positions: Positions, state: State) -> tuple[Scores, Features | None]:
        """Scores [N] and payload [N, F] of ``positions`` [N] under the newest weights."""
        with self._metrics.busy("refine"):
            if self._scoring.needs.forward:
                self._fresh_weights.take(self._newest)
            return self._score(positions, state, self._fresh_weights.replica)

    def stale(self, positions: Positions, version: int) -> Scores:
        """Scores [N] of ``positions`` [N] under the snapshot ``version``. Raises WaitError if the
        store does not have it within queue.timeout_s."""
        weights = self._stale_weights
        with self._metrics.busy("audit"):
            if not self._scoring.needs.forward:  # no weights are published or needed
                return self._score(positions, {}, weights.replica)[0]
            timeout_s = self._config.queue.timeout_s
            if not weights.load(version, timeout_s):
                raise WaitError(
                    f"audit: snapshot {version} was not available within {timeout_s:g} s"
                    " (queue.timeout_s); see logs/"
                )
            return self._score(positions, weights.state, weights.replica)[0]

    def _score(
        self, positions: Positions, state: State, replica: Replica
    ) -> tuple[Scores, Features | None]:
        chunk = self._config.selection.chunk
        indices, epochs = self._plan.indices(positions), self._plan.epochs(positions)
        scores, rows = [], []
        with enough_memory("scoring in the trainer"), threads(self._config.scorer.threads):
            for start in range(0, len(indices), chunk):
                part, when = indices[start : start + chunk], epochs[start : start + chunk]
                output = None
                if self._scoring.needs.forward:
                    output = replica(self._points.read(part, replica.device, when))
                values, features = self._scoring(part, output, state)
                scores.append(values)
                rows += [] if features is None else [features]
        return np.concatenate(scores), np.concatenate(rows) if rows else None
