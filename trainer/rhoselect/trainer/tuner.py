"""How to select, chosen by measurement while a run goes on: at which lag, and who re-scores.

A run goes in phases of ``selection.audit_every`` steps. At the start of a phase a window is audited
(``audit``), then each way that is allowed is tried for a few steps, and the phase goes on with the
one of least expected time: its seconds a step, divided by the share of a fresh choice's gain that
its picks have. A lag whose share is below ``selection.agreement`` is not tried, and one that saves
no time against lag 0 is not chosen.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass

from rhoselect.trainer.audit import Audit

TRIAL_STEPS = 8
PHASE_STEPS = 500
"""Length of a phase where nothing is audited."""


@dataclass(frozen=True)
class Way:
    """A way to select: at this lag, shortlists re-scored by the scorers or by the trainer."""

    lag: int
    by_scorers: bool


@dataclass(frozen=True)
class Choice:
    """What a phase goes on with, and why; ``step_ms`` of each way that was tried."""

    step: int
    way: Way
    step_ms: dict[Way, float]
    audits: list[Audit]

    def to_json(self) -> dict[str, object]:
        """A line of auto.jsonl."""
        tried = [asdict(way) | {"step_ms": round(ms, 3)} for way, ms in self.step_ms.items()]
        audits = [asdict(audit) for audit in self.audits]
        return {"step": self.step, "chosen": asdict(self.way), "tried": tried, "audits": audits}


class Tuner:
    """Tries ``ways`` in turn and chooses. ``apply`` puts a way into force.

    After a change of ways, the windows that are open already have to pass: ``settle`` steps are not
    timed.
    """

    def __init__(
        self,
        ways: list[Way],
        agreement: float,
        phase_steps: int,
        settle: int,
        apply: Callable[[Way], None],
    ) -> None:
        self._ways, self._agreement = ways, agreement
        self._phase_steps, self._settle, self._apply = phase_steps, settle, apply
        self._captured: dict[int, float] = {}
        self._audits: list[Audit] = []
        self._end_of_phase = 0
        self._trials: list[Way] = []
        self._times_ms: dict[Way, list[float]] = {}
        self._skip = 0

    def due(self, step: int) -> bool:
        """Whether a phase starts with ``step``: ``begin`` is next. Trials are never cut short."""
        return step >= self._end_of_phase and not self._trials

    def begin(self, step: int, audits: list[Audit]) -> None:
        """Start a phase, with what the audits found about each lag."""
        self._audits, self._captured = audits, {audit.lag: audit.captured for audit in audits}
        self._end_of_phase = step + self._phase_steps
        self._times_ms = {}
        self._trials = [way for way in self._ways if self._allowed(way)]
        self._next_trial()

    def observe(self, step: int, step_ms: float) -> Choice | None:
        """Take note of a step; the choice, once all ways were tried."""
        if not self._trials:
            return None
        if self._skip > 0:
            self._skip -= 1
            return None
        times = self._times_ms.setdefault(self._trials[0], [])
        times.append(step_ms)
        if len(times) < TRIAL_STEPS:
            return None
        self._trials.pop(0)
        if self._trials:
            self._next_trial()
            return None
        median_ms = {way: statistics.median(times) for way, times in self._times_ms.items()}
        way = self._best(median_ms)
        self._apply(way)
        return Choice(step, way, median_ms, self._audits)

    def _next_trial(self) -> None:
        self._skip = self._settle
        self._apply(self._trials[0])

    def _allowed(self, way: Way) -> bool:
        return way.lag == 0 or self._captured.get(way.lag, 1.0) >= self._agreement

    def _best(self, median_ms: dict[Way, float]) -> Way:
        fresh_ms = min((ms for way, ms in median_ms.items() if way.lag == 0), default=None)
        faster = [
            way for way, ms in median_ms.items() if way.lag == 0 or not fresh_ms or ms < fresh_ms
        ]
        return min(faster, key=lambda w: median_ms[w] / self._captured.get(w.lag, 1.0))
