"""A selector for a user's own training loop: every call is checked and may be repeated.

For each step t the loop publishes the weights of version t, requests the batch of step t, and
trains. A repeated call has no second effect. Calls come one at a time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from rhoselect.config import Config
from rhoselect.errors import FencedError, ModelError, UserError, listed
from rhoselect.inputs import SelectionInputs
from rhoselect.metrics import Metrics
from rhoselect.selection import Scoring
from rhoselect.selector.fence import ClosableFence
from rhoselect.selector.selector import SelectedBatch, Selector
from rhoselect.status import Status
from rhoselect.types import Layout


class Session:
    """One generation of a run, from ``first_step`` on. Calls raise FencedError once a newer
    generation exists, and after ``abandon``."""

    def __init__(
        self,
        inputs: SelectionInputs,
        selector: Selector,
        fence: ClosableFence,
        metrics: Metrics,
        first_step: int,
    ) -> None:
        self.config, self.train = inputs.config, inputs.train
        self._selector, self._fence, self._metrics = selector, fence, metrics
        self.layout, self.needs_losses = selector.layout, selector.needs_losses
        self._next, self._published, self._reported = first_step, -1, -1
        self._batch: SelectedBatch | None = None
        self._started = self._stepped = time.monotonic()
        self.latest = Status(first_step)
        selector.begin(first_step)

    def publish(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Publish the weights after ``version`` steps. A version published before is ignored.

        Raises UserError if another version is due, ModelError for tensors that do not match
        ``layout``.
        """
        self._fence.check_fence()
        if not self.layout or version <= self._published:
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
        self._selector.publish(version, tensors)
        self._published = version

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

    def abandon(self) -> None:
        """Make a call that waits end with FencedError; any thread may call this."""
        self._fence.closed = True

    def share(self, workers: int) -> None:
        """Set the number of scorers; any thread may call this."""
        self._selector.share(workers)

    def close(self) -> None:
        """Wait for the background work. Ignore FencedError: a newer session may exist by now."""
        with suppress(FencedError):
            self._selector.end()

    def _observe(self, batch: SelectedBatch) -> None:
        now, step = time.monotonic(), batch.step
        seconds, self._stepped = now - self._stepped, now
        selection, staleness = self.config.selection, max(0, step - batch.version)
        self._metrics.observe_step(step + 1, seconds, staleness, selection.n_b, selection.n_B)
        self.latest = Status(
            step + 1,
            loss=self.latest.loss,
            staleness=staleness,
            wall_seconds=now - self._started,
            wait_seconds=self._selector.waited_s,
            scored_points=(step + 1) * selection.n_B if self.layout else 0,
        )


def check_first_step(config: Config, scoring: Scoring, classes: int, step: int) -> None:
    """Raise UserError unless a session may begin with ``step``. With trainer.steps it has no batch,
    as in a job that is started again after its last step."""
    steps = config.trainer.steps
    if not 0 <= step <= steps:
        raise UserError(f"step: got {step}, allowed 0 to {steps}: trainer.steps is {steps}")
    if 0 < step < steps and (config.selection.lag != 0 or scoring.function.initial_state(classes)):
        raise UserError(
            f"step: got {step}, allowed 0 with selection.lag >= 1 or a method with a state: a"
            " resumed loop does not have the old snapshots or the state that they need"
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
