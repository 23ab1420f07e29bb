"""The trainer's loop: pop top → [refine] → step → publish. The only arrow back is weights.

It waits for one thing, the scores of its window: scorers push them once they have the snapshot that
the window's tickets name, which this loop publishes right after the step that made it
(``windows`` tells what happens if they do not).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from rhoselect.compute import threads
from rhoselect.config import Config
from rhoselect.errors import NonFiniteLossError, WindowError
from rhoselect.metrics import Metrics
from rhoselect.plan import Plan
from rhoselect.queue import SelectionQueue
from rhoselect.selection import Scoring
from rhoselect.selection.interface import State
from rhoselect.snapshots import SnapshotStore
from rhoselect.trainer import checkpoint as checkpoints
from rhoselect.trainer.checkpoint import Checkpoint, Progress
from rhoselect.trainer.evaluate import evaluate
from rhoselect.trainer.ground import Ground, Status
from rhoselect.trainer.learner import Learner, StepResult
from rhoselect.trainer.picker import PickedBatch, Picker
from rhoselect.trainer.records import Records, StepRecord
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.trainer.windows import Windows
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
        queue: SelectionQueue,
        snapshots: SnapshotStore,
        metrics: Metrics,
        score: Callable[[], bool],
        workers: int,
    ) -> None:
        self._config, self._folder, self._plan, self._ground = config, folder, plan, ground
        self._scoring, self.learner = scoring, learner
        self._queue, self._snapshots = queue, snapshots
        self._metrics = metrics
        self._windows = Windows(config, folder, plan, queue, metrics, score, workers)
        self._picker = Picker(config, plan, ground, scoring, learner, queue, metrics)
        self._live: dict[int, Snapshot] = {}
        self._state: State = scoring.function.initial_state(ground.classes)
        self._clock_start = time.monotonic()
        self.status = Status(0)

    def run(self) -> Progress:
        """Train to the last step, from the newest checkpoint if there is one."""
        with threads(self._config.trainer.threads):
            step = self._restore()
            self.records = Records(self._folder, step)
            self._publish(step)
            self._windows.open_from(step)
            while step < self._config.trainer.steps:
                started = time.perf_counter()
                popped = self._windows.wait(step, self._picker.wanted)
                waited_s = time.perf_counter() - started
                picked = self._pick(popped)
                result = self._update(step, picked)
                step += 1
                self._publish(step)
                self._windows.open_next(step)
                self._windows.close(step - 1)
                self._record(popped, picked, result, waited_s, started)
                self._chores(step)
        return self._progress(step)

    def _publish(self, step: int) -> None:
        """Publish the weights after ``step`` steps if a window will use them; retire the unused."""
        if not self._scoring.needs.forward or step >= self._config.trainer.steps:
            return
        if step % self._config.trainer.publish_every == 0 and step not in self._live:
            with self._metrics.busy("publish"):
                layout = self._ground.rescorer_layout
                self._live[step] = self.learner.snapshot(step, layout, self._state)
                self._folder.check_fence()
                self._snapshots.publish(self._live[step])
            size = sum(t.nbytes for t in self._live[step].tensors.values())
            self._metrics.snapshot_bytes.inc(size)
        oldest = self._windows.version(step)
        self._live = {v: s for v, s in self._live.items() if v >= oldest}
        self._snapshots.retire(oldest)

    def _pick(self, popped: Popped) -> PickedBatch:
        try:
            return self._picker.pick(popped, self._state)
        except WindowError:  # is it these points, or has training diverged?
            finite = []
            for chunk in range(self._plan.chunks):
                positions = self._plan.chunk_positions(popped.window, chunk)
                indices = self._ground.train.start + self._plan.indices(positions)
                batch = self._ground.train.read(indices, self.learner.device)
                losses = self.learner.losses(batch)
                finite.append(losses[losses.isfinite()])
            loss = torch.cat(finite).mean().item()  # of none: NaN
            self._check_finite("training loss", popped.window, loss)
            raise

    def _update(self, step: int, picked: PickedBatch) -> StepResult:
        with self._metrics.busy("train"):
            batch = self._ground.train.read(picked.indices, self.learner.device)
            result = self.learner.update(batch, picked.weights, step)
        self._check_finite("training loss", step, result.loss)
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
        popped: Popped,
        picked: PickedBatch,
        result: StepResult,
        waited_s: float,
        started: float,
    ) -> None:
        step, train = popped.window, self._ground.train
        clean, corrupted = train.clean_labels(picked.indices), None
        if clean is not None:
            corrupted = float((clean != train.labels(picked.indices)).mean())
        record = StepRecord(
            step=step,
            window=popped.window,
            indices=picked.indices,
            scores=picked.scores,
            loss=result.loss,
            staleness=step - popped.version,
            candidates=self._plan.n_B,
            wait_ms=1e3 * waited_s,
            step_ms=1e3 * (time.perf_counter() - started),
            corrupted_share=corrupted,
            correct_share=float(result.correct.float().mean()),
        )
        self.records.append(record)
        self._metrics.observe_step(
            record.step + 1,
            record.step_ms / 1e3,
            record.staleness,
            len(picked.indices),
            self._plan.n_B,
        )
        self._metrics.queue_oldest_version.set(self._windows.version(step + 1))
        progress = vars(self._progress(step + 1))
        self.status = replace(self.status, loss=result.loss, staleness=record.staleness, **progress)

    def _chores(self, step: int) -> None:
        """Evaluate and checkpoint when due; at the last step both."""
        trainer, last = self._config.trainer, step == self._config.trainer.steps
        if step % trainer.eval_every == 0 or last:
            self._evaluate(step)
        if step % trainer.checkpoint_every == 0 or last:
            self._check_finite("sum of the weights", step, self.learner.sum_of_weights())
            self.records.flush()
            in_use = [s for v, s in sorted(self._live.items()) if v != step]
            learner, state = self.learner.state_dict(), dict(self._state)
            done = Checkpoint(self._progress(step), learner, state, in_use)
            with self._metrics.busy("checkpoint"):
                checkpoints.save(self._folder, done, trainer.keep_checkpoints)
            self._metrics.last_checkpoint_time.set_to_current_time()

    def _evaluate(self, step: int) -> None:
        ground = self._ground
        with self._metrics.busy("evaluate"):
            layout = ground.evaluator_layout
            ground.evaluator.load(self.learner.snapshot(step, layout, self._state))
            result = evaluate(
                ground.evaluator,
                ground.test,
                ground.test.indices,
                ground.classes,
                self._config.trainer.eval_batch,
                self.learner.device,
            )
        self._check_finite("test loss", step, result.loss)
        self.records.add_evaluation(step, self._progress(step).wall_seconds, result)
        self._metrics.accuracy.set(result.accuracy)
        self.status = replace(self.status, accuracy=result.accuracy)

    def _restore(self) -> int:
        """Take up the newest checkpoint; returns the steps completed."""
        found = checkpoints.load_newest(self._folder.path)
        if found is None:
            return 0
        self.learner.load_state_dict(found.learner)
        self._state = found.state
        for snapshot in found.snapshots:
            self._live[snapshot.version] = snapshot
            self._snapshots.publish(snapshot)
        self._clock_start = time.monotonic() - found.progress.wall_seconds
        self._windows.waited_s = found.progress.wait_seconds
        self.status = Status(**vars(found.progress))
        return found.progress.step

    def _progress(self, step: int) -> Progress:
        scored = step * self._plan.n_B if self._scoring.needs.forward else 0
        return Progress(step, time.monotonic() - self._clock_start, self._windows.waited_s, scored)
