"""A selector for a user's own training loop: every call is checked and may be repeated.

For each step t the loop publishes the weights of version t, requests the batch of step t, and
trains. A repeated call has no second effect. Calls come one at a time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from rhoselect.errors import FencedError, ModelError, UserError, listed
from rhoselect.inputs import SelectionInputs
from rhoselect.metrics import Metrics
from rhoselect.selector.fence import ClosableFence
from rhoselect.selector.selector import SelectedBatch, Selector
from rhoselect.selector.start import Start, settings_of
from rhoselect.status import Status
from rhoselect.types import Layout


class Recorder(Protocol):
    """What keeps a session's records. ``trainer.own_loop.LoopRecords`` is one."""

    def add(self, batch: SelectedBatch, loss: float | None) -> None:
        """The loop has taken its step on ``batch``, whose mean loss before is known or not."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add values that the loop measured after ``step`` steps; also after ``close``."""
        ...

    def close(self, weights: Mapping[str, Tensor] | None) -> None:
        """The session has ended, with ``weights`` if they are known."""
        ...


class Session:
    """One generation of a run, from ``start`` on. Calls raise FencedError once a newer
    generation exists, and after ``abandon``. ``recorder`` is told of the steps, if there is one."""

    def __init__(
        self,
        inputs: SelectionInputs,
        selector: Selector,
        fence: ClosableFence,
        metrics: Metrics,
        start: Start,
        recorder: Recorder | None = None,
    ) -> None:
        self.config, self.train = inputs.config, inputs.train
        self._selector, self._fence, self._metrics = selector, fence, metrics
        self.layout, self.needs_losses = selector.layout, selector.needs_losses
        self._next, self._published, self._reported = start.step, -1, -1
        self._recorder, self._taken = recorder, start.step
        self._newest: Mapping[str, Tensor] | None = None
        self._batch: SelectedBatch | None = None
        self._started = self._stepped = time.monotonic()
        self.latest = Status(start.step, metric_name=inputs.task.metric)
        selector.begin(start.step, start.state, start.snapshots)

    def publish(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Publish the weights after ``version`` steps, the last one included. A version published
        before is ignored.

        Raises UserError if another version is due, ModelError for tensors that do not match
        ``layout``.
        """
        self._fence.check_fence()
        if version <= self._published:
            return
        if version != self._next:
            raise UserError(
                f"version: got {version}, allowed {self._next}, the step whose batch comes next"
            )
        if version and self.needs_losses and self._batch and self._reported < self._batch.step:
            raise UserError(
                f"step {version - 1}: selection.function {self.config.selection.function!r} needs"
                " the losses of its batch before the next weights; give them to step()"
            )
        check_tensors(tensors, self.layout)
        if self.layout:
            self._selector.publish(version, tensors)
        self._published, self._newest = version, tensors
        self._take()

    def next(self, step: int) -> SelectedBatch:
        """Wait for the scores of ``step`` and return its batch. ``step`` is that of the last call,
        which returns the same batch, or the next one.

        Raises UserError for another step, WindowError and WaitError as `Selector.next`.
        """
        self._fence.check_fence()
        if self._batch is not None and step == self._batch.step:
            return self._batch
        if step != self._next or step >= self.config.trainer.steps:
            raise UserError(
                f"step: got {step}, allowed {self._next}, or the step before it again, of"
                f" {self.config.trainer.steps} steps"
            )
        if self.layout and self._published < step:
            raise UserError(
                f"step {step}: requested before its weights were published; publish version"
                f" {step} first"
            )
        self._take()
        self._batch = self._selector.next(step)
        self._next = step + 1
        self._observe(self._batch)
        return self._batch

    def report(self, step: int, losses: Tensor) -> None:
        """Give the losses [n_b] of the last batch in nats, computed before its optimizer step.
        Raises UserError for the losses of another batch, or for losses that are not finite."""
        self._fence.check_fence()
        if self._batch is None or step != self._batch.step:
            raise UserError(f"step: got the losses of {step}, allowed those of the last batch")
        indices = self._batch.points.indices
        if losses.shape != (len(indices),) or not losses.isfinite().all():
            raise UserError(
                f"losses: got {list(losses.shape)}, allowed [{len(indices)}] finite numbers, one a"
                " point of the batch"
            )
        if self._reported < step and self.needs_losses:
            self._selector.report(torch.from_numpy(self.train.labels(indices)), losses)
        self._reported = step
        self.latest = replace(self.latest, loss=losses.mean().item())

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record what the loop measured after ``step`` steps; also after ``close``. Raises
        UserError."""
        accuracy = values.get("accuracy", 0.0)
        if not 0 <= step <= self._next:
            raise UserError(f"step: got {step}, allowed 0 to {self._next}, the steps taken so far")
        if not values or {"step", "seconds"} & values.keys():
            raise UserError(
                f"log: got values of {sorted(values)}, allowed at least one, of any name but step"
                " and seconds"
            )
        if not (0 <= accuracy <= 1 or math.isnan(accuracy)):
            raise UserError(f"accuracy: got {accuracy:g}, allowed a share from 0 to 1")
        if self._recorder is not None:
            self._recorder.log(step, values)
        metric = values.get(self.latest.metric_name, self.latest.metric)
        accuracy = values.get("accuracy", self.latest.accuracy)
        self.latest = replace(self.latest, accuracy=accuracy, metric=metric)

    def checkpoint(self) -> Start:
        """Where a session goes on whose loop has the weights of this step, as copies."""
        state = {name: tensor.clone() for name, tensor in self._selector.state.items()}
        first = self._next - self.config.selection.lag
        used = [each for each in self._selector.in_use(self._next) if each.version >= first]
        return Start(self._next, state, used, settings_of(self.config, len(self.train)))

    def abandon(self) -> None:
        """Make a call that waits end with FencedError; any thread may call this."""
        self._fence.closed = True

    def share(self, workers: int) -> None:
        """Set the number of scorers; any thread may call this."""
        self._selector.share(workers)

    def close(self) -> None:
        """Wait for the background work. Ignore FencedError: a newer session may exist by now."""
        try:
            with suppress(FencedError):
                self._selector.end()
        finally:
            with suppress(FencedError):
                self._end_records()

    def _end_records(self) -> None:
        if not self.layout and self._next == self.config.trainer.steps:
            self._take()  # of a method without weights nothing else tells of the last step
        if self._recorder is not None:
            known = self._published == self._taken
            self._recorder.close(self._newest if known else None)

    def _take(self) -> None:
        """The loop has taken its step on the last batch: record this, once."""
        if self._batch is None or self._taken > self._batch.step:
            return
        self._taken = self._batch.step + 1
        if self._recorder is not None:
            known = self._reported == self._batch.step
            self._recorder.add(self._batch, self.latest.loss if known else None)

    def _observe(self, batch: SelectedBatch) -> None:
        now, step = time.monotonic(), batch.step
        seconds, self._stepped = now - self._stepped, now
        selection, staleness = self.config.selection, max(0, step - batch.version)
        self._metrics.observe_step(step + 1, seconds, staleness, selection.n_b, selection.n_B)
        self.latest = replace(
            self.latest,
            step=step + 1,
            staleness=staleness,
            wall_seconds=now - self._started,
            wait_seconds=self._selector.waited_s,
            scored_points=(step + 1) * selection.n_B if self.layout else 0,
        )


def check_tensors(tensors: Mapping[str, Tensor], layout: Layout) -> None:
    """Raise ModelError unless ``tensors`` have the names and shapes of ``layout``. Additional
    tensors are ignored."""
    wrong = [f"{name} is missing" for name in layout if name not in tensors]
    wrong += [
        f"{name} is {list(tensors[name].shape)} and not {list(like.shape)}"
        for name, like in layout.items()
        if name in tensors and tensors[name].shape != like.shape
    ]
    if wrong:
        raise ModelError(
            f"model: {listed(wrong, 3, '; ')}; allowed the tensors of the model that scores: that"
            " of the configuration's model.factory, or the one that the client was made with"
        )
