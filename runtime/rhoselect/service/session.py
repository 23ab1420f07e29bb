"""The trainer's part of a run without its learner: a loop elsewhere takes the steps.

Per step t the loop gives the weights of version t, asks for the batch of step t, which waits until
its window is scored, and trains. Every call may be repeated: it has no second effect. Calls come
one at a time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rhoselect.config import Config
from rhoselect.data import SplitPoints
from rhoselect.errors import FencedError, ModelError, UserError
from rhoselect.metrics import Metrics
from rhoselect.models.weights import first_few
from rhoselect.selection import Scoring
from rhoselect.selection.interface import State
from rhoselect.snapshots import SnapshotStore
from rhoselect.trainer.ground import Fence, Source
from rhoselect.trainer.picker import PickedBatch, Picker
from rhoselect.trainer.status import Status
from rhoselect.types import Layout


@dataclass(frozen=True)
class Choice:
    """The batch of step ``step``, scored with the weights of ``version``."""

    step: int
    version: int
    batch: PickedBatch


class Ending:
    """A fence that its own side can close, too: whoever waits is let go."""

    def __init__(self, fence: Fence) -> None:
        self._fence, self.closed = fence, False

    def check_fence(self) -> None:
        """Raise FencedError after a newer generation, or once closed."""
        if self.closed:
            raise FencedError("session: has ended")
        self._fence.check_fence()


class Session:
    """One generation of a run, from ``first_step`` on. Calls raise FencedError once it is not the
    newest."""

    def __init__(
        self,
        config: Config,
        train: SplitPoints,
        scoring: Scoring,
        classes: int,
        layout: Layout,
        source: Source,
        picker: Picker,
        snapshots: SnapshotStore,
        metrics: Metrics,
        fence: Ending,
        first_step: int,
    ) -> None:
        self.config, self.train = config, train
        self._scoring = scoring
        self.layout: Layout = layout if scoring.needs.forward else {}
        self._source, self._picker, self._snapshots = source, picker, snapshots
        self._metrics, self._fence = metrics, fence
        self._next, self._published = first_step, -1
        self._choice: Choice | None = None
        self._state: State = scoring.function.initial_state(classes)
        self.needs_losses = bool(self._state)
        self._reported = -1
        self._started = self._stepped = time.monotonic()
        self.latest = Status(first_step)
        source.open_from(first_step)

    def publish(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Give the weights after ``version`` steps; a version given before is left as it is.

        Raises UserError for a version out of turn, ModelError for tensors unlike ``layout``.
        """
        self._fence.check_fence()
        if not self.layout or version <= self._published:
            return
        if version != self._next:
            raise UserError(
                f"version: got {version}, allowed {self._next}, the step whose batch comes next"
            )
        if version and self.needs_losses and self._choice and self._reported < self._choice.step:
            raise UserError(
                f"step {version - 1}: selection.function {self.config.selection.function!r} needs"
                " the losses of its batch before the next weights; give them to step()"
            )
        check_tensors(tensors, self.layout)
        self._picker.early(version)
        dtypes = {name: like.dtype for name, like in self.layout.items()}
        started = time.perf_counter()
        self._snapshots.publish(version, tensors, dtypes, self._state)
        seconds = time.perf_counter() - started
        self._metrics.observe_publish(seconds, sum(like.nbytes for like in self.layout.values()))
        self._published = version
        self._snapshots.retire(self._source.version(version))

    def next(self, step: int) -> Choice:
        """The batch of ``step``: that of the last call, or the one after it. Waits for its scores.

        Raises UserError for a step out of turn, WindowError and WaitError.
        """
        self._fence.check_fence()
        if self._choice is not None and step == self._choice.step:
            return self._choice
        if step != self._next or step >= self.config.trainer.steps:
            raise UserError(
                f"step: got {step}, allowed {self._next} (or again the one before it) of"
                f" {self.config.trainer.steps} steps"
            )
        if self.layout and self._published < step:
            raise UserError(
                f"step {step}: asked for before its weights were published, allowed after"
                f" version {step}"
            )
        if self._choice is not None:
            self._source.close(step - 1)
        popped = self._source.wait(step, self._picker.wanted(step))
        choice = Choice(step, popped.version, self._picker.pick(popped, step, self._state))
        self._source.open_ahead(step)
        self._choice, self._next = choice, step + 1
        self._observe(choice)
        return choice

    def report(self, step: int, losses: Tensor) -> None:
        """The losses [n_b] of the last batch, in nats, before its step. Raises UserError."""
        self._fence.check_fence()
        if self._choice is None or step != self._choice.step:
            raise UserError(f"step: got the losses of {step}, allowed those of the last batch")
        indices = self._choice.batch.indices
        if losses.shape != (len(indices),) or not losses.isfinite().all():
            raise UserError(
                f"losses: got {list(losses.shape)}, allowed [{len(indices)}] finite numbers, one a"
                " point of the batch"
            )
        if self._reported < step and self.needs_losses:
            labels = torch.from_numpy(self.train.labels(indices))
            self._state = self._scoring.function.next_state(self._state, labels, losses)
        self._reported = step
        self.latest = Status(**{**vars(self.latest), "loss": losses.mean().item()})

    def abandon(self) -> None:
        """Let go, from another thread, a call that waits."""
        self._fence.closed = True

    def share(self, workers: int) -> None:
        """From now on there are ``workers`` scorers; from any thread."""
        self._source.share(workers)

    def close(self) -> None:
        """Have all done that was asked for."""
        self._source.end()

    def _observe(self, choice: Choice) -> None:
        now, step = time.monotonic(), choice.step
        seconds, self._stepped = now - self._stepped, now
        selection, staleness = self.config.selection, max(0, step - choice.version)
        self._metrics.observe_step(step + 1, seconds, staleness, selection.n_b, selection.n_B)
        self.latest = Status(
            step + 1,
            loss=self.latest.loss,
            staleness=staleness,
            wall_seconds=now - self._started,
            wait_seconds=self._source.waited_s,
            scored_points=(step + 1) * selection.n_B if self.layout else 0,
        )


def check_first_step(config: Config, scoring: Scoring, classes: int, step: int) -> None:
    """Raise UserError unless a session may begin with ``step``."""
    steps = config.trainer.steps
    if not 0 <= step < steps:
        raise UserError(f"step: got {step}, allowed 0 to {steps - 1}: trainer.steps is {steps}")
    if step and (config.selection.lag != 0 or scoring.function.initial_state(classes)):
        raise UserError(
            f"step: got {step}, allowed 0 with selection.lag >= 1 or a method with a state, whose"
            " past a resumed loop does not have"
        )


def check_tensors(tensors: Mapping[str, Tensor], layout: Layout) -> None:
    """Raise ModelError unless ``tensors`` have the names and shapes of ``layout``; others may be
    among them."""
    wrong = [f"{name} is missing" for name in layout if name not in tensors]
    wrong += [
        f"{name} is {list(tensors[name].shape)} and not {list(like.shape)}"
        for name, like in layout.items()
        if name in tensors and tensors[name].shape != like.shape
    ]
    if wrong:
        raise ModelError(
            f"model: {first_few(wrong)}; allowed the tensors of the configuration's"
            " model.factory: build the loop's model by the same code"
        )
