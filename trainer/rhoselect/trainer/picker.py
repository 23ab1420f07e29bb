"""From the best of a window to a batch: the second stage, then the method's pick."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rhoselect.config import Config
from rhoselect.errors import WindowError
from rhoselect.metrics import Metrics
from rhoselect.plan import Plan
from rhoselect.queue import SelectionQueue
from rhoselect.selection import Scoring, Shortlist
from rhoselect.selection.interface import State
from rhoselect.selection.scoring import order
from rhoselect.trainer.ground import Ground
from rhoselect.trainer.learner import Learner
from rhoselect.types import Indices, Popped, Positions


@dataclass(frozen=True)
class PickedBatch:
    """Data-set indices [n_b] in training order, their scores, and loss weights [n_b] or None."""

    indices: Indices
    scores: list[float]
    weights: torch.Tensor | None


class Picker:
    """Turns what the queue gave for a window into the batch of a step."""

    def __init__(
        self,
        config: Config,
        plan: Plan,
        ground: Ground,
        scoring: Scoring,
        learner: Learner,
        queue: SelectionQueue,
        metrics: Metrics,
    ) -> None:
        self._config, self._plan, self._ground = config, plan, ground
        self._scoring, self._learner = scoring, learner
        self._queue, self._metrics = queue, metrics

    @property
    def wanted(self) -> int:
        """How many points of a window to pop."""
        selection = self._config.selection
        if self._scoring.function.whole_window:
            return selection.n_B
        return self._config.k * selection.n_b

    def pick(self, popped: Popped, state: State) -> PickedBatch:
        """The batch of a window. Raises WindowError if fewer than n_b points have finite scores."""
        best = Shortlist(self._indices(popped.positions), popped.scores, popped.features)
        shortlist = self._refine(popped, state) if self._config.k > 1 else best
        n_b = self._config.selection.n_b
        if len(shortlist.indices) < n_b:
            dropped = np.setdiff1d(best.indices, shortlist.indices)
            raise self._too_few(popped.window, len(shortlist.indices), dropped)
        rng = np.random.default_rng((self._config.seed, popped.window))
        picked = self._scoring.function.pick(shortlist, n_b, rng)
        weights = None
        if picked.weights is not None:
            weights = torch.from_numpy(picked.weights).to(self._learner.device)
        rows = picked.rows
        return PickedBatch(shortlist.indices[rows], shortlist.scores[rows].tolist(), weights)

    def _refine(self, popped: Popped, state: State) -> Shortlist:
        """Re-score with the weights of now; best first, points with non-finite scores dropped."""
        indices = self._indices(popped.positions)
        ground, output = self._ground, None
        with self._metrics.busy("refine"):
            if self._scoring.needs.forward:
                snapshot = self._learner.snapshot(popped.window, ground.rescorer_layout, state)
                ground.rescorer.load(snapshot)
                output = ground.rescorer(ground.train.read(indices, self._learner.device))
            scores, features = self._scoring(indices, output, state)
        rows = np.flatnonzero(np.isfinite(scores))
        rows = rows[order(popped.positions[rows], scores[rows])]
        return Shortlist(indices[rows], scores[rows], None if features is None else features[rows])

    def _too_few(self, window: int, got: int, dropped: Indices) -> WindowError:
        at_workers = self._indices(np.array(self._queue.rejected(window), np.uint64))
        rejected = np.concatenate((at_workers, dropped))
        names = rejected[:10].tolist()
        return WindowError(
            f"window {window}: got {got} points with a finite score, needed n_b ="
            f" {self._config.selection.n_b}; {len(rejected)} were rejected, data-set indices"
            f" {names}; look at these points, or at the irreducible losses"
        )

    def _indices(self, positions: Positions) -> Indices:
        return self._ground.train.start + self._plan.indices(positions)
