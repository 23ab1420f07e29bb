"""What watches over selection while a run goes on: audits, and the tuner that acts on them."""

from __future__ import annotations

import json

from rhoselect.config import Config
from rhoselect.metrics import Metrics
from rhoselect.selection.interface import State
from rhoselect.trainer.audit import Auditor
from rhoselect.trainer.ground import Source
from rhoselect.trainer.picker import Picker
from rhoselect.trainer.runfolder import RunFolder, writing
from rhoselect.trainer.tuner import PHASE_STEPS, Tuner, Way

LOG_NAME = "auto.jsonl"
FIRST_AUDIT_STEP = 20
"""When auto-lag first looks: a lag is never tried before an audit, nor among the very first steps,
which are like no others."""


class Oversight:
    """Called before and after every step. ``keep``: how many versions older than those that open
    windows use it wants kept."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        source: Source,
        picker: Picker,
        auditor: Auditor,
        metrics: Metrics,
        workers: int,
    ) -> None:
        self._config, self._folder, self._metrics = config, folder, metrics
        self._source, self._picker, self._auditor = source, picker, auditor
        selection = config.selection
        self._auto = selection.lag == "auto"
        self.keep = selection.max_lag if self._auto else 0
        options = ways(config, workers)
        self._apply(options[0])
        self._tuner = None
        if len(options) > 1:
            phase = config.audit_every if self._auto else PHASE_STEPS
            settle = selection.max_lag + 3
            self._tuner = Tuner(options, selection.agreement, phase, settle, self._apply)

    def before(self, step: int, state: State) -> None:
        """Audit window ``step`` if that is due; at the start of a phase, let the tuner begin."""
        begins = self._tuner is not None and self._tuner.due(step)
        begins &= not self._auto or step >= max(FIRST_AUDIT_STEP, self.keep)
        every = self._config.audit_every
        audits = []
        if (begins and self._auto) or (every and step % every == 0 and step > 0):
            oldest = max(0, step - self.keep)
            versions = {step - v: v for v in range(oldest, step)}
            if not self._auto:
                version = self._source.version(step)
                versions = {step - version: version}
            audits = self._auditor.audit(step, versions, state)
            for audit in audits:
                self._metrics.observe_audit(
                    audit.lag, audit.rank_agreement, audit.overlap, audit.captured
                )
        if begins and self._tuner is not None:
            # A lag that was asked for is kept, whatever an audit says of it.
            self._tuner.begin(step, audits if self._auto else [])

    def after(self, step: int, step_ms: float) -> None:
        """Take note of a step's time; log what the tuner chose."""
        choice = self._tuner.observe(step, step_ms) if self._tuner is not None else None
        if choice is not None:
            self._folder.check_fence()
            path = self._folder.path / LOG_NAME
            with writing(self._folder), path.open("a") as file:
                file.write(json.dumps(choice.to_json()) + "\n")

    def _apply(self, way: Way) -> None:
        self._source.lag, self._picker.by_scorers = way.lag, way.by_scorers
        self._metrics.lag.set(way.lag)


def ways(config: Config, workers: int) -> list[Way]:
    """The ways to select that a configuration leaves open; the first is the one to start with."""
    selection = config.selection
    lags = [selection.lag] if selection.lag != "auto" else list(range(selection.max_lag + 1))
    found = []
    for lag in lags:
        stages = 1 if selection.lag == "auto" and lag == 0 else config.k
        shared = stages > 1 and workers > 0 and config.trainer.publish_every == 1
        shared = shared and selection.mode == "window"
        if not shared or selection.rescore != "scorers":
            found.append(Way(lag, by_scorers=False))
        if shared and selection.rescore != "trainer":
            found.append(Way(lag, by_scorers=True))
    return found
