"""Makes a batch from the best points of a window: the second stage, then the method's pick."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rhoselect.errors import WindowError
from rhoselect.inputs import SelectionInputs
from rhoselect.selection import Shortlist
from rhoselect.selection.interface import State
from rhoselect.selection.scoring import order
from rhoselect.selector.rescorer import Rescorer
from rhoselect.selector.windows import Windows
from rhoselect.types import Indices, TopK


@dataclass(frozen=True)
class PickedPoints:
    """The points of a batch, in training order: data-set ``indices`` [n_b] int64, or fewer, if
    ``selection.max_tokens`` says so; the ``epochs``
    [n_b] int64 in which they were candidates; ``scores`` [n_b]; loss ``weights`` [n_b] float32 on
    the CPU, or None."""

    indices: Indices
    epochs: Indices
    scores: list[float]
    weights: torch.Tensor | None


class Picker:
    """Makes the batch of a step from the points that the queue returned for its window.

    ``rescorer`` re-scores shortlists in this process; if it is None, the scorers re-score them
    through the queue. Both score in chunks of ``selection.chunk``, with the same bits.
    """

    def __init__(
        self, inputs: SelectionInputs, windows: Windows, rescorer: Rescorer | None
    ) -> None:
        self._config, self._plan, self._scoring = inputs.config, inputs.plan, inputs.scoring
        self._train, self._task = inputs.train, inputs.task
        self._windows, self._rescorer = windows, rescorer
        self._by_scorers = inputs.config.scorers_rescore

    def wanted(self) -> int:
        """How many of the best points of a window the pick needs."""
        selection = self._config.selection
        if self._scoring.function.whole_window:
            return selection.n_B
        return self._config.k * selection.n_b

    def prepost(self, step: int) -> None:
        """Open the shortlist of ``step`` before its weights are published, if scorers re-score."""
        if self._by_scorers and step < self._config.trainer.steps:
            self._windows.prepost(step, self.wanted())

    def pick(self, popped: TopK, step: int, state: State) -> PickedPoints:
        """The batch of step ``step``. Raises WindowError if fewer than n_b points have finite
        scores."""
        best, n_b = self._shortlist(popped), self._config.selection.n_b
        refined = best
        if self._config.k > 1 and len(best.indices) >= n_b:
            popped = self._refine(popped, step, state)
            refined = self._shortlist(popped)
        if len(refined.indices) < n_b:
            dropped = np.setdiff1d(best.indices, refined.indices)
            raise self._too_few(step, len(refined.indices), dropped)
        rng = np.random.default_rng((self._config.seed, step))
        picked = self._scoring.function.pick(refined, n_b, rng)
        weights = None
        if picked.weights is not None:
            weights = torch.from_numpy(picked.weights)
        epochs = self._plan.epochs(popped.positions[picked.rows])
        count = self._within_budget(refined.indices[picked.rows], epochs)
        rows, epochs = picked.rows[:count], epochs[:count]
        return PickedPoints(refined.indices[rows], epochs, refined.scores[rows].tolist(), weights)

    def _within_budget(self, indices: Indices, epochs: Indices) -> int:
        """How many of the first of some points have no more tokens than a batch may have."""
        most = self._config.selection.max_tokens
        if not most:
            return len(indices)
        tokens = self._task.tokens(self._train.read(indices, torch.device("cpu"), epochs))
        assert tokens is not None, "checked at start"
        return max(1, int((tokens.cumsum(0) <= most).sum()))

    def _refine(self, popped: TopK, step: int, state: State) -> TopK:
        """Re-score the shortlist with the newest weights; drop points with non-finite scores."""
        if self._by_scorers:
            return self._windows.rescore(step, step, popped.positions)
        assert self._rescorer is not None, "a rescorer is given unless the scorers re-score"
        scores, features = self._rescorer.fresh(popped.positions, state)
        rows = np.flatnonzero(np.isfinite(scores))
        rows = rows[order(popped.positions[rows], scores[rows])]
        return TopK(
            step,
            step,
            popped.positions[rows],
            scores[rows],
            None if features is None else features[rows],
        )

    def _shortlist(self, popped: TopK) -> Shortlist:
        indices = self._plan.window_indices(popped.window, popped.positions)
        return Shortlist(indices, popped.scores, popped.features)

    def _too_few(self, window: int, got: int, dropped: Indices) -> WindowError:
        at_workers = self._plan.indices(np.array(self._windows.rejected(window), np.uint64))
        rejected = np.union1d(at_workers, dropped)
        names = rejected[:10].tolist()
        return WindowError(
            f"window {window}: got {got} points with a finite score, needed n_b ="
            f" {self._config.selection.n_b}; {len(rejected)} were rejected, data-set indices"
            f" {names}; check these points and the irreducible losses"
        )
