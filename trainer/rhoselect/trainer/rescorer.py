"""Scores computed by the trainer itself, outside the queue: second stages and audits."""

from __future__ import annotations

import numpy as np

from rhoselect.compute import threads
from rhoselect.config import Config
from rhoselect.metrics import Metrics
from rhoselect.plan import Plan
from rhoselect.selection import Scoring
from rhoselect.selection.interface import State
from rhoselect.snapshots import SnapshotStore
from rhoselect.trainer.ground import Ground
from rhoselect.trainer.learner import Learner
from rhoselect.types import Features, Positions, Scores


class Rescorer:
    """Scores any positions in chunks of ``selection.chunk``: the bits that the scorers would give.

    The weights of a step are loaded once, however often they are asked for.
    """

    def __init__(
        self,
        config: Config,
        plan: Plan,
        ground: Ground,
        scoring: Scoring,
        learner: Learner,
        snapshots: SnapshotStore,
        metrics: Metrics,
    ) -> None:
        self._config, self._plan, self._ground = config, plan, ground
        self._scoring, self._learner, self._snapshots = scoring, learner, snapshots
        self._metrics = metrics
        self._loaded = -1

    def fresh(
        self, positions: Positions, step: int, state: State
    ) -> tuple[Scores, Features | None]:
        """Scores [N] and payload [N, F] of ``positions`` [N] under the learner's weights of now,
        which are those after ``step`` steps."""
        with self._metrics.busy("refine"):
            if self._scoring.needs.forward and self._loaded != step:
                ground = self._ground
                ground.rescorer.load(self._learner.pieces(ground.rescorer_layout))
                self._loaded = step
            return self._score(positions, state)

    def stale(self, positions: Positions, version: int) -> Scores:
        """Scores [N] of ``positions`` [N] under the snapshot ``version``."""
        with self._metrics.busy("audit"):
            if not self._scoring.needs.forward:  # nothing is published, nothing can age
                return self._score(positions, {})[0]
            state = self._snapshots.load(version, self._ground.rescorer.load, timeout_s=0)
            assert state is not None, "audits keep what they compare"
            self._loaded = version
            return self._score(positions, state)[0]

    def _score(self, positions: Positions, state: State) -> tuple[Scores, Features | None]:
        ground, chunk = self._ground, self._config.selection.chunk
        indices = self._plan.indices(positions)
        epochs = self._plan.epochs(positions)
        scores, rows = [], []
        with threads(self._config.scorer.threads):
            for start in range(0, len(indices), chunk):
                part, when = indices[start : start + chunk], epochs[start : start + chunk]
                output = None
                if self._scoring.needs.forward:
                    output = ground.rescorer(ground.train.read(part, self._learner.device, when))
                values, features = self._scoring(part, output, state)
                scores.append(values)
                rows += [] if features is None else [features]
        return np.concatenate(scores), np.concatenate(rows) if rows else None
