"""Candidates from the rolling queue (mode "stream"): scorers never wait for weights, and neither
waits for a whole window. The trainer takes a randomised shortlist of what there is and re-scores
it.

``wait`` waits for points: scorers unblock it as long as they may claim, which ``advance`` allows
them. Points can be lost (a dead scorer's chunk, a flushed server), so a wait that does not get
enough for a second lets the scorers one window further ahead (up to twice ``stream.ahead``), and
goes on with fewer points than it asked for if they make a batch. Where two epochs meet, a point may
be in the set twice, as a candidate of either, and be picked twice.
"""

from __future__ import annotations

import math
import time

from rhoselect.errors import WaitError
from rhoselect.inputs import SelectionInputs
from rhoselect.metrics import Metrics
from rhoselect.queue import StreamQueue
from rhoselect.scorer.loop import Scorer
from rhoselect.selector.fence import Fence
from rhoselect.types import Positions, QueueStats, TopK

RESEND_S = 1.0
LOOK_S = 1.0  # between looks at the queue for the metrics


class Stream:
    """A ``source.Source`` over a rolling queue."""

    def __init__(
        self,
        inputs: SelectionInputs,
        queue: StreamQueue,
        scorer: Scorer,
        fence: Fence,
        metrics: Metrics,
        workers: int,
    ) -> None:
        self._config, self._queue, self._scorer = inputs.config, queue, scorer
        self._fence, self._metrics = fence, metrics
        self.share(workers)
        self._extra = 0
        self._looked = -math.inf
        self.waited_s = 0.0

    def open_from(self, window: int) -> None:
        """Let scorers go on from ``window``."""
        self._queue.advance(window)

    def open_ahead(self, window: int) -> None:
        """Nothing: ``close`` has advanced the queue."""

    def close(self, window: int) -> None:
        """Let scorers go one window further, and drop the scores that have become too old."""
        if time.monotonic() - self._looked > LOOK_S:
            self._look()
        self._queue.advance(window + 1 + self._extra)

    def _look(self) -> QueueStats:
        self._looked = time.monotonic()
        stats = self._queue.stats()
        self._metrics.observe_queue(stats)
        if stats.oldest_version is not None:
            self._metrics.queue_oldest_version.set(stats.oldest_version)
        return stats

    def end(self) -> None:
        """Nothing is left undone."""

    def share(self, workers: int) -> None:
        """From now on there are ``workers`` scorers; from any thread."""
        self._lends = self._config.trainer.scores or workers == 0

    def version(self, window: int) -> int:
        """The weights before the newest: a scorer may be loading them."""
        return max(0, window - 1)

    def check_fence(self) -> None:
        """Raise FencedError if a newer generation has taken over."""
        self._fence.check_fence()

    def rejected(self, window: int) -> list[int]:
        """None are kept."""
        return []

    def wait(self, window: int, k: int) -> TopK:
        """The best k points there are; fewer, but n_b at least, if the scorers cannot keep up."""
        started, scored_s = time.monotonic(), 0.0
        popped = self._queue.take(k, 0)
        while popped is None:
            asked = time.monotonic()
            mine = self._lends and self._scorer.score_one()
            scored_s += time.monotonic() - asked if mine else 0.0
            popped = self._queue.take(k, 0 if mine else RESEND_S)
            if popped is None and not mine:
                k = self._remind(window, k, time.monotonic() - started)
        waited_s = time.monotonic() - started
        self.waited_s += waited_s
        self._metrics.wait_seconds.labels("window").inc(waited_s - scored_s)
        return popped

    def _remind(self, window: int, k: int, waited_s: float) -> int:
        """Let the scorers go on; how many points to wait for now. Raises WaitError after
        queue.timeout_s."""
        self._fence.check_fence()
        self._extra = min(self._extra + 1, self._config.stream.ahead)
        self._queue.advance(window + self._extra)
        stats = self._look()
        if waited_s > self._config.queue.timeout_s:
            raise WaitError(
                f"step {window}: no scores for {waited_s:.0f} s (queue.timeout_s); queue: {stats};"
                " see logs/ for the scorers"
            )
        return min(k, stats.points) if stats.points >= self._config.selection.n_b else k

    def prepost(self, window: int, k: int) -> None:
        raise AssertionError("the trainer re-scores by itself here")

    def rescore(self, window: int, version: int, positions: Positions) -> TopK:
        raise AssertionError("the trainer re-scores by itself here")
