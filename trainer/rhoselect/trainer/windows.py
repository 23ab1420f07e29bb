"""The windows of a run as its trainer sees them: opened ahead, waited for, closed.

``wait`` is where the trainer waits. Scorers unblock it, who claim the window's tickets and push
their scores once they have the snapshot that the tickets name. After a second without news it
re-sends ``open`` (a flushed queue starts over), and after the lease it hands out again what a dead
scorer held. When nothing moves for a while the trainer scores chunks itself, and goes on so until a
scorer shows life: a run reaches its end, and the same one, whatever becomes of its scorers. With no
scorers it scores everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rhoselect.config import Config
from rhoselect.errors import WaitError
from rhoselect.metrics import Metrics
from rhoselect.plan import Plan
from rhoselect.queue import SelectionQueue
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.types import Popped

RESEND_S = 1.0
STALL_S = 5.0


class Windows:
    """``score`` scores one ticket in this process; False if there was none to score yet."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        plan: Plan,
        queue: SelectionQueue,
        metrics: Metrics,
        score: Callable[[], bool],
        workers: int,
    ) -> None:
        self._config, self._folder, self._plan = config, folder, plan
        self._queue, self._metrics = queue, metrics
        self._score, self._workers = score, workers
        self._helping = False
        self.waited_s = 0.0

    def open_from(self, window: int) -> None:
        """Open ``window`` and those ahead of it: scorers claim and read before weights exist."""
        for each in range(window, self._last_ahead(window) + 1):
            self._open(each)

    def open_next(self, window: int) -> None:
        """Open the one more window that is ahead now that ``window`` is next."""
        self._open(self._last_ahead(window))

    def _last_ahead(self, window: int) -> int:
        return window + self._config.selection.lag + 1

    def _open(self, window: int) -> None:
        if window < self._config.trainer.steps:
            self._queue.open(window, self.version(window), self._plan.chunks)

    def version(self, window: int) -> int:
        """The one version that may score ``window``."""
        every = self._config.trainer.publish_every
        return max(0, window - self._config.selection.lag) // every * every

    def close(self, window: int) -> None:
        """Forget a window that became a step; before evaluations, note what the queue held."""
        if (window + 1) % self._config.trainer.eval_every == 0:
            self._metrics.queue_points.set(self._queue.stats().points)
        self._queue.close(window)

    def wait(self, window: int, k: int) -> Popped:
        """The best k points of a window. Raises WaitError after queue.timeout_s."""
        started, scored = time.monotonic(), 0
        moved, accepted = started, -1
        while (popped := self._queue.pop(window, k, timeout_s=0)) is None:
            if (self._helping or self._workers == 0) and self._score():
                scored += 1
                continue
            popped = self._queue.pop(window, k, RESEND_S)
            if popped is not None:
                break
            self._resend(window, time.monotonic() - started)
            if (now_accepted := self._queue.stats().accepted) != accepted:
                moved, accepted = time.monotonic(), now_accepted
            self._helping = self._helping or time.monotonic() - moved > STALL_S
        self._helping = self._helping and scored == self._plan.chunks
        waited_s = time.monotonic() - started
        self.waited_s += waited_s
        self._metrics.wait_seconds.labels("window").inc(waited_s)
        assert popped.version == self.version(window), "a window is scored by exactly its version"
        return popped

    def _resend(self, window: int, waited_s: float) -> None:
        """Remind the queue of what is wanted. Raises WaitError after queue.timeout_s."""
        self._folder.check_fence()
        self.open_from(window)
        if waited_s > self._config.queue.lease_s:
            self._metrics.reclaimed.inc(self._queue.reap())
        if waited_s > self._config.queue.timeout_s:
            raise WaitError(
                f"step {window}: no scores for {waited_s:.0f} s (queue.timeout_s); queue:"
                f" {self._queue.stats()}; see logs/ for the scorers"
            )
