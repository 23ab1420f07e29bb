"""The trainer's loop: next batch → step → publish → record.

It waits only for the scores of its window (``rhoselect.selector``). Scorers push them once they
have loaded the weights that this loop published after the previous step.
"""

from __future__ import annotations

import logging
import math
import time
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from rhoselect.compute import repeatable, single_threaded_pool, threads
from rhoselect.errors import FencedError, NonFiniteLossError, WindowError
from rhoselect.hardware import facts_of
from rhoselect.inputs import RunInputs
from rhoselect.metrics import Metrics
from rhoselect.models.replica import Replica
from rhoselect.selector import SelectedBatch, Selector
from rhoselect.status import Status
from rhoselect.trainer import checkpoint as checkpoints
from rhoselect.trainer.candidates import next_candidates
from rhoselect.trainer.checkpoint import Checkpoint, Progress
from rhoselect.trainer.control import TrainerControl
from rhoselect.trainer.evaluate import evaluate
from rhoselect.trainer.hardware import begin
from rhoselect.trainer.learner import Learner, StepResult
from rhoselect.trainer.records import Records, StepRecord, corrupted_share
from rhoselect.trainer.runfolder import RunFolder, writing
from rhoselect.trainer.saving import Saver
from rhoselect.trainer.stepping import take_step
from rhoselect.trainer.tracking import (
    NoTracker,
    Tracker,
    figures_of,
    figures_of_test,
    open_tracker,
)


class Trainer:
    """One trainer generation, over any transport. ``evaluator``: see `Learner.evaluated_by`."""

    def __init__(
        self,
        inputs: RunInputs,
        folder: RunFolder,
        learner: Learner,
        selector: Selector,
        evaluator: Replica | None,
        metrics: Metrics,
        control: TrainerControl,
    ) -> None:
        self._inputs, self._config, self._folder = inputs, inputs.config, folder
        self.learner, self._selector, self._evaluator = learner, selector, evaluator
        self.metrics, self._control = metrics, control
        self._clock_start, self._recalibrated = time.monotonic(), -1
        self._tracker: Tracker = NoTracker()
        self.status = self._begun(checkpoints.newest_progress(folder.path))
        metrics.generation.set(folder.generation)

    def run(self) -> Progress:
        """Train from the newest checkpoint, if there is one, to the last step, or to the one where
        a stop is requested. Raises FencedError if a newer trainer took over."""
        try:
            return self._run()
        except Exception:
            try:
                self._folder.check_fence()  # a newer trainer may be the cause, as it tidies up
            except FencedError:
                self.metrics.fenced_calls.inc()
                raise
            raise
        finally:
            self._tracker.close()

    def _run(self) -> Progress:
        tf32, scoring = self._config.compute.tf32, torch.device(self._config.scorer.device)
        with (
            repeatable(self.learner.device, tf32),
            repeatable(scoring, tf32),  # of the scorer in this process
            threads(self._config.trainer.threads),
            single_threaded_pool("reader") as self._reader,
            closing(self._control),
            Saver(self._folder, self._config.trainer.keep_checkpoints, self.metrics) as self._saver,
        ):
            self._folder.check_fence()  # an older trainer writes nothing from now on
            step = self._restore()
            self._control.begins(step)
            with writing(self._folder):
                self.records = Records(self._folder, step)
                self._tracker = open_tracker(self._config.trainer.tracker, self._folder.path, step)
                self._note_hardware(step)
            self._selector.publish(step, self.learner.tensors)
            while step < self._config.trainer.steps and not self._stops(step):
                batch = self._next(step)
                self._control.chosen(batch)
                result = take_step(self._inputs, self.learner, self._selector, self.metrics, batch)
                step += 1
                self._selector.publish(step, self.learner.tensors)
                self._record(batch, result)
                self._save_if_due(step)
            self._selector.end()
        return self._progress(step)

    def _note_hardware(self, step: int) -> None:
        found = begin(self._folder, step, facts_of(self.learner.device) | self.learner.facts)
        if found.exact is False:
            logging.warning("%s: is not exact: %s", self._folder.path, found.reason)
            self.status = replace(self.status, inexact=found.reason)

    def look(self) -> Status:
        """The current status; any thread may call this."""
        counts = self.metrics.staleness_counts()
        return replace(self.status, paused=self._control.paused, staleness_counts=counts)

    def share(self, workers: int) -> None:
        """Set the number of scorers; any thread may call this."""
        self._selector.share(workers)

    def _stops(self, step: int) -> bool:
        """Handle the requests of `TrainerControl`. Returns whether the run ends here. The time that
        this takes is not counted as run time."""
        self._saver.check()
        came = time.monotonic()
        stops = self._control.poll(
            step, lambda: self._checkpoint(step).result(), self._folder.check_fence
        )
        self._clock_start += time.monotonic() - came
        return stops

    def _next(self, step: int) -> SelectedBatch:
        try:
            return self._selector.next(step)
        except WindowError:  # are a few points broken, or has training diverged?
            inputs, scoring, finite = self._inputs, self.learner.scoring, []
            for chunk in range(inputs.plan.chunks):
                positions = inputs.plan.chunk_positions(step, chunk)
                indices, epochs = inputs.plan.indices(positions), inputs.plan.epochs(positions)
                losses = scoring.losses(inputs.train.read(indices, scoring.device, epochs))
                finite.append(losses[losses.isfinite()])
            loss = torch.cat(finite).mean().item()  # NaN if none is finite
            self._check_finite("training loss", step, loss)
            raise

    def _check_finite(self, what: str, step: int, loss: float) -> None:
        """Raise NonFiniteLossError if ``loss``, under the weights after ``step`` steps, is not
        finite. The error names the newest checkpoint from which a step was taken."""
        if not math.isfinite(loss):
            self._saver.settle()
            good = checkpoints.newest_before(self._folder.path, step)
            raise NonFiniteLossError(
                f"{what} at step {step}: got {loss}, allowed a finite one; last good checkpoint:"
                f" {good or 'none'}; lower trainer.lr or set trainer.clip_norm, and start anew in"
                " another run folder: a resumed run keeps its settings"
            )

    def _record(self, selected: SelectedBatch, result: StepResult) -> None:
        train, step, points = self._inputs.train, selected.step, selected.points
        loss, correct = result.loss.item(), result.correct
        self._check_finite("training loss", step, loss)
        record = StepRecord(
            step=step,
            window=step,
            indices=points.indices,
            scores=points.scores,
            loss=loss,
            staleness=step - selected.version,
            candidates=selected.candidates,
            wait_ms=1e3 * selected.waited_s,
            step_ms=1e3 * (time.perf_counter() - selected.asked_at),
            corrupted_share=corrupted_share(train, points.indices),
            correct_share=None if correct is None else float(correct.float().mean()),
        )
        self.records.append(record)
        self._tracker.log(step + 1, figures_of(record))
        seconds, n_b = record.step_ms / 1e3, len(points.indices)
        self.metrics.observe_step(step + 1, seconds, record.staleness, n_b, selected.candidates)
        self.metrics.loss.set(loss)
        progress = vars(self._progress(step + 1))
        self.status = replace(self.status, loss=loss, staleness=record.staleness, **progress)

    def _save_if_due(self, step: int) -> None:
        """Evaluate and checkpoint when due; at the last step both."""
        trainer, last = self._config.trainer, step == self._config.trainer.steps
        if step % trainer.eval_every == 0 or last:
            self._evaluate(step)
        if step % trainer.checkpoint_every == 0 or last:
            self._checkpoint(step)

    def _checkpoint(self, step: int) -> Future[Path]:
        self._check_finite("greatest weight", step, self.learner.greatest_weight())
        self.learner.check_frozen(f"training changed frozen parameters by step {step}")
        self._recalibrate(step)
        learner, state = self.learner.state_dict(), dict(self._selector.state)
        done = Checkpoint(self._progress(step), learner, state, self._selector.in_use(step))
        with self.metrics.busy("checkpoint"), writing(self._folder):
            return self._saver.begin(done, self.learner, self.records)

    def _evaluate(self, step: int) -> None:
        inputs = self._inputs
        self._recalibrate(step)
        with self.metrics.busy("evaluate"):
            measured = self.learner.evaluated_by(self._evaluator)
            found = evaluate(inputs, measured, self._control.check, self._reader)
        for name in {inputs.task.metric, "loss"} & found.keys():
            self._check_finite(f"test {name}", step, found[name])
        with writing(self._folder):
            self.records.add_values(step, self._progress(step).wall_seconds, found)
        self._tracker.log(step, figures_of_test(found))
        accuracy, metric = found.get("accuracy", math.nan), found["metric"]
        self.metrics.accuracy.set(accuracy)
        self.metrics.metric.set(metric)
        self.status = replace(self.status, accuracy=accuracy, metric=metric)

    def _recalibrate(self, step: int) -> None:
        """Give weights that are evaluated or kept the BatchNorm statistics of candidates: those of
        selected batches drift. Training reads neither, so it does not matter when this is done."""
        if self._config.selection.bn != "auto" or self._recalibrated == step:
            return
        with self.metrics.busy("evaluate"):
            self.learner.recalibrate(next_candidates(self._inputs, step, self.learner.device))
        self._recalibrated = step

    def _restore(self) -> int:
        """Load the newest checkpoint, if there is one. Returns the steps completed."""
        found = checkpoints.load_newest(self._folder.path, self.learner.shards)
        if found is None:
            self._selector.begin(0)
            return 0
        self.learner.load_state_dict(found.learner)
        self._selector.begin(found.progress.step, found.state, found.snapshots)
        self._clock_start = time.monotonic() - found.progress.wall_seconds
        self._selector.waited_s = found.progress.wait_seconds
        self.status = self._begun(found.progress)
        return found.progress.step

    def _begun(self, progress: Progress) -> Status:
        return Status(**vars(progress), metric_name=self._inputs.task.metric)

    def _progress(self, step: int) -> Progress:
        scored = step * self._config.selection.n_B if self._inputs.scoring.needs.forward else 0
        seconds = time.monotonic() - self._clock_start
        return Progress(step, seconds, self._selector.waited_s, scored)
