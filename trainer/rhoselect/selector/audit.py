"""Audits: how good a selection with stale weights is, measured by scores from fresh weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rhoselect.inputs import SelectionInputs
from rhoselect.metrics import Metrics
from rhoselect.selection.interface import State
from rhoselect.selection.scoring import gumbel, order
from rhoselect.selector.rescorer import Rescorer
from rhoselect.types import Scores


@dataclass(frozen=True)
class Audit:
    """The result for one window, scored with the weights of ``lag`` steps ago and with the newest.

    ``rank_agreement``: Spearman's rank correlation of the two scores, -1 to 1. ``overlap``: share
    of the fresh top n_b that the two-stage selection at this lag contains. ``captured``: mean fresh
    score of that selection minus the window's mean, divided by the same difference for the fresh
    top n_b; 1 is as good as fresh, 0 no better than a uniform batch.
    """

    lag: int
    rank_agreement: float
    overlap: float
    captured: float


class Auditor:
    """Audits windows. It draws no random numbers and changes no weights, so a run with audits
    selects the same points as a run without."""

    def __init__(self, inputs: SelectionInputs, rescorer: Rescorer, metrics: Metrics) -> None:
        self._config, self._plan = inputs.config, inputs.plan
        self._rescorer, self._metrics = rescorer, metrics

    def audit_if_due(self, step: int, version: int, state: State) -> Audit | None:
        """Audit window ``step`` every ``selection.audit_every`` steps, and export the result."""
        every = self._config.selection.audit_every
        if not every or step == 0 or step % every:
            return None
        found = self.audit(step, version, state)
        self._metrics.observe_audit(found.lag, found.rank_agreement, found.overlap, found.captured)
        return found

    def audit(self, step: int, version: int, state: State) -> Audit:
        """Audit window ``step``, which is scored with the weights of ``version``. A non-finite
        score counts as the lowest."""
        positions = self._plan.window(step)
        stale = _finite(self._rescorer.stale(positions, version))
        fresh = _finite(self._rescorer.fresh(positions, state)[0])
        selection, k = self._config.selection, self._config.k
        top = order(positions, fresh)[: selection.n_b]
        noisy = stale
        if k > 1:
            noise = gumbel(self._config.seed, step, self._plan.indices(positions))
            noisy = stale + selection.temperature * noise
        picked = order(positions, noisy)[: k * selection.n_b]
        if k > 1:
            picked = picked[order(positions[picked], fresh[picked])[: selection.n_b]]
        overlap = len(np.intersect1d(picked, top)) / selection.n_b
        return Audit(step - version, spearman(stale, fresh), overlap, _captured(fresh, picked, top))


def spearman(one: Scores, other: Scores) -> float:
    """Spearman's rank correlation of scores [N]; 0 if all scores of one side are equal."""
    a, b = (ranks - ranks.mean() for ranks in (_ranks(one), _ranks(other)))
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / spread if spread else 0.0


def _ranks(scores: Scores) -> npt.NDArray[np.float64]:
    """Ranks [N]; equal scores get their mean rank."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[places], np.float64)


def _captured(fresh: Scores, picked: npt.NDArray[np.intp], top: npt.NDArray[np.intp]) -> float:
    best = fresh[top].mean() - fresh.mean()
    return float((fresh[picked].mean() - fresh.mean()) / best) if best > 0 else 1.0


def _finite(scores: Scores) -> Scores:
    finite = np.isfinite(scores)
    return np.where(finite, scores, scores[finite].min() if finite.any() else 0.0)
