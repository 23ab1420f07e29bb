"""The trainer's loop: pop top → [refine] → step → publish. The only arrow back is weights.

It waits for one thing, the scores of its window: scorers push them once they have the snapshot that
the window's tickets name, which this loop publishes right after the step that made it (``windows``
and ``stream`` tell what happens if they do not).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rhoselect.compute import repeatable, threads
from rhoselect.config import Config
from rhoselect.errors import FencedError, NonFiniteLossError, WindowError
from rhoselect.metrics import Metrics
from rhoselect.plan import Plan
from rhoselect.selection import Scoring
from rhoselect.selection.interface import State
from rhoselect.snapshots import SnapshotStore
from rhoselect.snapshots.base import Pieces
from rhoselect.trainer import checkpoint as checkpoints
from rhoselect.trainer.audit import Auditor
from rhoselect.trainer.checkpoint import Checkpoint, Progress
from rhoselect.trainer.evaluate import evaluate
from rhoselect.trainer.gate import Gate
from rhoselect.trainer.ground import Ground, Source
from rhoselect.trainer.learner import Learner, StepResult
from rhoselect.trainer.picker import PickedBatch, Picker
from rhoselect.trainer.records import Records, StepRecord
from rhoselect.trainer.runfolder import RunFolder, writing
from rhoselect.trainer.status import Status
from rhoselect.types import Popped, Snapshot


class Trainer:
    """One trainer generation. Everything it needs is given; it knows no transport."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        plan: Plan,
        ground: Ground,
        scoring: Scoring,
        learner: Learner,
        source: Source,
        picker: Picker,
        auditor: Auditor,
        snapshots: SnapshotStore,
        metrics: Metrics,
        gate: Gate,
    ) -> None:
        self._config, self._folder, self._plan, self._ground = config, folder, plan, ground
        self._scoring, self.learner = scoring, learner
        self._source, self._picker, self._auditor = source, picker, auditor
        self._snapshots, self.metrics, self._gate = snapshots, metrics, gate
        self._live: set[int] = set()
        self._state: State = scoring.function.initial_state(ground.classes)
        self._stateful = bool(self._state)
        self._clock_start = time.monotonic()
        self.status = Status(0)
        metrics.generation.set(folder.generation)
        metrics.staleness_bound.set(config.staleness_bound)

    def run(self) -> Progress:
        """Train from the newest checkpoint, if there is one, to the last step, or to the one where
        the gate says stop. Raises FencedError if a newer trainer took over."""
        try:
            return self._run()
        except Exception:
            try:
                self._folder.check_fence()  # whatever failed: a newer trainer may have tidied up
            except FencedError:
                self.metrics.fenced_calls.inc()
                raise
            raise

    def _run(self) -> Progress:
        device, threads_ = self.learner.device, self._config.trainer.threads
        with repeatable(device), threads(threads_), closing(self._gate):
            step = self._restore()
            with writing(self._folder):
                self.records = Records(self._folder, step)
            self._publish(step)
            self._source.open_from(step)
            while step < self._config.trainer.steps and not self._stops(step):
                self._auditor.audit_if_due(step, self._source.version(step), self._state)
                started = time.perf_counter()
                popped = self._source.wait(step, self._picker.wanted(step))
                picked = self._pick(popped, step)
                waited_s = time.perf_counter() - started
                self._source.open_ahead(step)
                result = self._update(step, picked)
                step += 1
                self._picker.early(step)
                self._publish(step)
                self._source.close(step - 1)
                self._record(step - 1, popped, picked, result, waited_s, started)
                self._chores(step)
            self._source.end()
        return self._progress(step)

    def look(self) -> Status:
        """The status of now, from any thread."""
        counts = self.metrics.staleness_counts()
        return replace(self.status, paused=self._gate.paused, staleness_counts=counts)

    def share(self, workers: int) -> None:
        """From now on there are ``workers`` scorers; from any thread."""
        self._source.share(workers)

    def _stops(self, step: int) -> bool:
        """Pause and save as others ask; whether the run is to end here. The run's clock stands."""
        came = time.monotonic()
        save, fence = lambda: self._checkpoint(step), self._folder.check_fence
        stops = self._gate.arrive(step, save, fence)
        self._clock_start += time.monotonic() - came
        return stops

    def _publish(self, step: int) -> None:
        """Publish the weights after ``step`` steps if a window will use them; retire the unused."""
        if not self._scoring.needs.forward or step >= self._config.trainer.steps:
            return
        if step % self._config.trainer.publish_every == 0 and step not in self._live:
            self._folder.check_fence()
            self._send(step, self.learner.tensors, self._state)
        oldest = self._source.version(step)
        self._live = {version for version in self._live if version >= oldest}
        self._snapshots.retire(oldest)

    def _send(self, version: int, tensors: Mapping[str, Tensor], state: State) -> None:
        layout = self._ground.rescorer_layout
        dtypes = {name: like.dtype for name, like in layout.items()}
        started = time.perf_counter()
        self._snapshots.publish(version, tensors, dtypes, state)
        seconds = time.perf_counter() - started
        self._live.add(version)
        size = sum(like.nbytes for like in layout.values())
        self.metrics.observe_publish(seconds, size)

    def _pick(self, popped: Popped, step: int) -> PickedBatch:
        try:
            return self._picker.pick(popped, step, self._state)
        except WindowError:  # is it these points, or has training diverged?
            finite = []
            for chunk in range(self._plan.chunks):
                positions = self._plan.chunk_positions(step, chunk)
                indices = self._plan.indices(positions)
                epochs = self._plan.epochs(positions)
                batch = self._ground.train.read(indices, self.learner.device, epochs)
                losses = self.learner.losses(batch)
                finite.append(losses[losses.isfinite()])
            loss = torch.cat(finite).mean().item()  # of none: NaN
            self._check_finite("training loss", step, loss)
            raise

    def _update(self, step: int, picked: PickedBatch) -> StepResult:
        with self.metrics.waiting("data"):
            batch = self._ground.train.read(picked.indices, self.learner.device, picked.epochs)
        with self.metrics.busy("train"):
            result = self.learner.update(batch, picked.weights, step)
        if self._stateful:  # others need not wait for the device here
            labels, losses = batch.labels.cpu(), result.losses.cpu()
            self._state = self._scoring.function.next_state(self._state, labels, losses)
        return result

    def _check_finite(self, what: str, step: int, loss: float) -> None:
        """Stop a run whose weights after ``step`` steps do not give a finite loss. A checkpoint is
        known to be good once a step was taken from it."""
        if not math.isfinite(loss):
            good = checkpoints.newest_before(self._folder.path, step)
            raise NonFiniteLossError(
                f"{what} at step {step}: got {loss}, allowed a finite one; last good checkpoint:"
                f" {good or 'none'}; lower trainer.lr or set trainer.clip_norm"
            )

    def _record(
        self,
        step: int,
        popped: Popped,
        picked: PickedBatch,
        result: StepResult,
        waited_s: float,
        started: float,
    ) -> None:
        train, loss = self._ground.train, result.loss.item()
        self._check_finite("training loss", step, loss)
        clean, corrupted = train.clean_labels(picked.indices), None
        if clean is not None:
            corrupted = float((clean != train.labels(picked.indices)).mean())
        record = StepRecord(
            step=step,
            window=step,
            indices=picked.indices,
            scores=picked.scores,
            loss=loss,
            staleness=max(0, step - popped.version),  # a stream's windows may be ahead
            candidates=self._plan.n_B,
            wait_ms=1e3 * waited_s,
            step_ms=1e3 * (time.perf_counter() - started),
            corrupted_share=corrupted,
            correct_share=float(result.correct.float().mean()),
        )
        self.records.append(record)
        seconds, picks = record.step_ms / 1e3, len(picked.indices)
        self.metrics.observe_step(step + 1, seconds, record.staleness, picks, self._plan.n_B)
        self.metrics.loss.set(loss)
        progress = vars(self._progress(step + 1))
        self.status = replace(self.status, loss=loss, staleness=record.staleness, **progress)

    def _chores(self, step: int) -> None:
        """Evaluate and checkpoint when due; at the last step both."""
        trainer, last = self._config.trainer, step == self._config.trainer.steps
        if step % trainer.eval_every == 0 or last:
            self._evaluate(step)
        if step % trainer.checkpoint_every == 0 or last:
            self._checkpoint(step)

    def _checkpoint(self, step: int) -> Path:
        self._check_finite("sum of the weights", step, self.learner.sum_of_weights())
        in_use = [self._snapshot(version) for version in sorted(self._live - {step})]
        learner, state = self.learner.state_dict(), dict(self._state)
        done = Checkpoint(self._progress(step), learner, state, in_use)
        with self.metrics.busy("checkpoint"), writing(self._folder):
            self.records.flush()
            path = checkpoints.save(self._folder, done, self._config.trainer.keep_checkpoints)
        self.metrics.last_checkpoint_time.set_to_current_time()
        return path

    def _evaluate(self, step: int) -> None:
        ground = self._ground
        with self.metrics.busy("evaluate"):
            ground.evaluator.load(self.learner.pieces(ground.evaluator_layout))
            result = evaluate(
                ground.evaluator,
                ground.test,
                ground.test.indices,
                ground.classes,
                self._config.trainer.eval_batch,
                self.learner.device,
            )
        self._check_finite("test loss", step, result.loss)
        with writing(self._folder):
            self.records.add_evaluation(step, self._progress(step).wall_seconds, result)
        self.metrics.accuracy.set(result.accuracy)
        self.status = replace(self.status, accuracy=result.accuracy)

    def _restore(self) -> int:
        """Take up the newest checkpoint; returns the steps completed."""
        found = checkpoints.load_newest(self._folder.path)
        if found is None:
            return 0
        self.learner.load_state_dict(found.learner)
        self._state = found.state
        for snapshot in found.snapshots:
            self._send(snapshot.version, snapshot.tensors, snapshot.state)
        self._clock_start = time.monotonic() - found.progress.wall_seconds
        self._source.waited_s = found.progress.wait_seconds
        self.status = Status(**vars(found.progress))
        return found.progress.step

    def _snapshot(self, version: int) -> Snapshot:
        """A copy of a snapshot that open windows still use."""
        tensors: dict[str, Tensor] = {}

        def keep(pieces: Pieces) -> None:
            tensors.update((name, tensor.clone()) for name, tensor in pieces)

        state = self._snapshots.load(version, keep, timeout_s=0)
        assert state is not None, "published and not retired"
        return Snapshot(version, tensors, state)

    def _progress(self, step: int) -> Progress:
        scored = step * self._plan.n_B if self._scoring.needs.forward else 0
        seconds = time.monotonic() - self._clock_start
        return Progress(step, seconds, self._source.waited_s, scored)
