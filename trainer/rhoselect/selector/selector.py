"""The selector: open windows → wait for scores → [re-score] → pick, and publish the weights.

A loop requests the batch of step t, trains on it, and publishes the weights of version t + 1::

    selector.begin(0)
    selector.publish(0, weights)
    for step in range(steps):
        batch = selector.next(step)     # waits for the scores of window ``step``
        ...                             # one optimizer step
        selector.publish(step + 1, weights)

The scorers of window t wait for the version that its tickets name; ``publish`` ends their wait.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from rhoselect.errors import WaitError
from rhoselect.inputs import SelectionInputs
from rhoselect.metrics import Metrics
from rhoselect.selection.interface import State
from rhoselect.selector.audit import Audit, Auditor
from rhoselect.selector.picker import PickedPoints, Picker
from rhoselect.selector.rescorer import Rescorer
from rhoselect.selector.windows import Windows
from rhoselect.snapshots import SnapshotStore
from rhoselect.snapshots.base import Pieces
from rhoselect.types import Layout, Snapshot


@dataclass(frozen=True)
class SelectedBatch:
    """The batch of step ``step``, chosen from ``candidates`` points, which were scored with the
    weights of ``version``.

    ``asked_at`` is when the selector began to wait for its scores (seconds of time.perf_counter),
    ``waited_s`` how long it took until the points were picked. ``audit`` is of an audited step.
    """

    step: int
    version: int
    points: PickedPoints
    candidates: int
    asked_at: float
    waited_s: float
    audit: Audit | None = None


class Selector:
    """Selects the batches of one generation of a run. Not thread-safe, but for ``share``. Calls
    follow the order of the module's docstring.

    ``rescorer`` computes second stages and audits in this process. Without one the scorers
    re-score, and there are no audits.
    """

    def __init__(
        self,
        inputs: SelectionInputs,
        layout: Layout,
        windows: Windows,
        rescorer: Rescorer | None,
        snapshots: SnapshotStore,
        metrics: Metrics,
    ) -> None:
        self._config, self._function = inputs.config, inputs.scoring.function
        self.layout: Layout = layout if inputs.scoring.needs.forward else {}
        self._dtypes = {name: like.dtype for name, like in self.layout.items()}
        self._snapshot_bytes = sum(like.nbytes for like in self.layout.values())
        self._windows, self._rescorer = windows, rescorer
        self._snapshots, self._metrics = snapshots, metrics
        self._picker = Picker(inputs, windows, rescorer)
        self._auditor = None if rescorer is None else Auditor(inputs, rescorer, metrics)
        self._published: set[int] = set()
        self._open_window: int | None = None
        self.state: State = self._function.initial_state(inputs.classes)
        self.needs_losses = bool(self.state)
        metrics.staleness_bound.set(inputs.config.staleness_bound)

    def begin(self, step: int, state: State | None = None, old: Iterable[Snapshot] = ()) -> None:
        """Open the windows from ``step`` on. A resumed run gives the ``state`` of its checkpoint
        and, at lag >= 1, the ``old`` snapshots that open windows still use."""
        if state is not None:
            self.state = state
        for snapshot in old:
            self._send(snapshot.version, snapshot.tensors, snapshot.state)
        self._windows.open_from(step)

    def next(self, step: int) -> SelectedBatch:
        """Wait for the scores of window ``step`` and return its batch. Raises WindowError if fewer
        than n_b of its points have finite scores, WaitError after queue.timeout_s."""
        self._close_before(step)
        audit = None
        if self._auditor is not None:
            audit = self._auditor.audit_if_due(step, self._windows.version(step), self.state)
        asked_at = time.perf_counter()
        scored = self._windows.wait(step, self._picker.wanted())
        points = self._picker.pick(scored, step, self.state)
        waited_s = time.perf_counter() - asked_at
        self._windows.open_ahead(step)
        self._open_window = step
        n_B = self._config.selection.n_B
        return SelectedBatch(step, scored.version, points, n_B, asked_at, waited_s, audit)

    def report(self, labels: Tensor, losses: Tensor) -> None:
        """Give the labels [n_b] of the last batch and its losses [n_b] in nats before its step, on
        the CPU. If ``needs_losses`` is true, call this before the next ``publish``."""
        if self.needs_losses:
            self.state = self._function.next_state(self.state, labels, losses)

    def publish(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        """Publish the weights after ``version`` steps, if a window will use them. The caller must
        not change ``tensors`` before ``next`` has returned the next batch."""
        if self._rescorer is not None:
            self._rescorer.follow(tensors)
        if self._open_window is not None:
            self._picker.prepost(version)
        self._send_if_used(version, tensors)
        self._close_before(version)

    def in_use(self, step: int) -> list[Snapshot]:
        """Copies of the published snapshots older than ``step`` that open windows still use."""
        return [self._copy(version) for version in sorted(self._published - {step})]

    @property
    def waited_s(self) -> float:
        """Seconds waited for scores since the run began."""
        return self._windows.waited_s

    @waited_s.setter
    def waited_s(self, seconds: float) -> None:
        self._windows.waited_s = seconds

    def share(self, workers: int) -> None:
        """Set the number of scorers; any thread may call this."""
        self._windows.share(workers)

    def end(self) -> None:
        """Wait for the background work. Raises its errors."""
        self._windows.end()

    def _send_if_used(self, version: int, tensors: Mapping[str, Tensor]) -> None:
        trainer = self._config.trainer
        if not self.layout or version >= trainer.steps:
            return
        if version % trainer.publish_every == 0 and version not in self._published:
            self._windows.check_fence()
            self._send(version, tensors, self.state)
        oldest = self._windows.version(version)
        self._published = {each for each in self._published if each >= oldest}
        self._snapshots.retire(oldest)

    def _send(self, version: int, tensors: Mapping[str, Tensor], state: State) -> None:
        started = time.perf_counter()
        self._snapshots.publish(version, tensors, self._dtypes, state)
        seconds = time.perf_counter() - started
        self._published.add(version)
        self._metrics.observe_publish(seconds, self._snapshot_bytes)

    def _close_before(self, step: int) -> None:
        """Close the window of the step before ``step``, if it is still open."""
        if self._open_window is not None and self._open_window < step:
            self._windows.close(self._open_window)
            self._open_window = None

    def _copy(self, version: int) -> Snapshot:
        tensors: dict[str, Tensor] = {}

        def keep(pieces: Pieces) -> None:
            tensors.update((name, tensor.clone()) for name, tensor in pieces)

        state = self._snapshots.load(version, keep, self._config.queue.timeout_s)
        if state is None:
            raise WaitError(
                f"snapshot {version}: published, but could not be loaded within"
                f" {self._config.queue.timeout_s:g} s (queue.timeout_s); see logs/"
            )
        return Snapshot(version, tensors, state)
