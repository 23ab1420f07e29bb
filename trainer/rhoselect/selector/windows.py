"""The trainer's side of the windows: it opens them ahead, waits for their scores, closes them.

The trainer waits in ``wait`` only. Scorers claim the window's tickets, load the snapshot that the
tickets name and push scores; that ends the wait. With ``trainer.scores`` an idle trainer scores
tickets of its own lane meanwhile. After `RESEND_S` without a result it repeats ``open`` (a flushed
queue has lost its tickets). After ``queue.lease_s`` it takes back the tickets of dead or frozen
scorers and scores as many itself, unless scorers that wait for weights are quicker. If no scores
arrive for `STALL_S` it scores all remaining tickets, until a scorer pushes again. So a run always
ends, with the same result, even if all its scorers die. Without any it scores everything.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from rhoselect.compute import AtOnce
from rhoselect.errors import RunError, WaitError
from rhoselect.inputs import SelectionInputs
from rhoselect.metrics import Metrics
from rhoselect.queue import SelectionQueue
from rhoselect.scorer.loop import Scorer
from rhoselect.selector.fence import Fence
from rhoselect.types import Positions, QueueStats, TopK

RESEND_S = 1.0  # between repeated ``open`` calls
LOOK_S = 1.0  # between reads of the queue's state for the metrics
STALL_S = 5.0  # without new scores before the trainer scores the rest; longer with slow scorers
STALL_GAPS = 3.0  # times the run's longest wait for a chunk of a scorer: see ``_stall_s``


@dataclass
class _Progress:
    """The state of one wait: ``moved``, when scores last arrived; ``accepted``, chunks accepted by
    the queue then (-1: not known yet); ``own``, chunks scored here that are not among them."""

    moved: float
    accepted: int = -1
    own: int = 0

    def note(self, accepted: int) -> float:
        """The seconds waited for a scorer's chunk, if one has arrived; otherwise 0."""
        gained, now, gap_s = accepted - self.accepted, time.monotonic(), 0.0
        if gained:
            if self.accepted >= 0 and gained > self.own:
                gap_s = now - self.moved
            self.moved, self.accepted, self.own = now, accepted, max(0, self.own - gained)
        return gap_s


class Windows:
    """The windows of one generation of a run. ``scorer`` scores tickets in this process; its lane
    comes after those of ``workers`` scorers and ``rank`` other trainers. ``waited_s``: seconds that
    ``wait`` and ``rescore`` have taken since the run began."""

    def __init__(
        self,
        inputs: SelectionInputs,
        queue: SelectionQueue,
        scorer: Scorer,
        fence: Fence,
        metrics: Metrics,
        workers: int,
        rank: int = 0,
    ) -> None:
        self._config, self._plan = inputs.config, inputs.plan
        self._queue, self._scorer = queue, scorer
        self._fence, self._metrics, self._rank = fence, metrics, rank
        self._alone = False
        self._longest_gap_s = 0.0
        self.share(workers)
        self._lag = inputs.config.selection.lag
        self.waited_s = 0.0
        # Opens and closes windows, so that no step waits for a queue server.
        self._runner = AtOnce() if queue.at_hand else ThreadPoolExecutor(1, "windows")
        self._background: deque[Future[None]] = deque()
        self._opening: dict[int, Future[None]] = {}
        self._opened_to = 0
        self._preposted: dict[int, TopK] = {}
        self._looked = -math.inf

    def open_from(self, window: int) -> None:
        """Open ``window`` and those ahead of it: scorers claim and read before weights exist."""
        self._opened_to = self._end_ahead(window)
        for each in range(window, self._opened_to):
            self._open(each)

    def open_ahead(self, window: int) -> None:
        """Open the next window in the background, while the trainer trains on ``window``."""
        for each in range(self._opened_to, self._end_ahead(window)):
            self._opening[each] = self._runner.submit(self._open, each)
            self._background.append(self._opening[each])
        self._opened_to = self._end_ahead(window)

    def _end_ahead(self, window: int) -> int:
        return min(window + self._lag + 3, self._config.trainer.steps)

    def _open(self, window: int) -> None:
        self._queue.open(window, self.version(window), self._plan.chunks)

    def version(self, window: int) -> int:
        """The version that scores ``window``; no other is allowed."""
        every = self._config.trainer.publish_every
        return max(0, window - self._lag) // every * every

    def close(self, window: int) -> None:
        """Close a window in the background, after its step."""
        self._metrics.queue_oldest_version.set(self.version(window + 1))
        self._background.append(self._runner.submit(self._close, window))

    def _close(self, window: int) -> None:
        last = window + 1 == self._config.trainer.steps
        if last or time.monotonic() - self._looked > LOOK_S:
            self._look()
        self._queue.close(window)

    def _look(self) -> QueueStats:
        self._looked = time.monotonic()
        stats = self._queue.stats()
        self._metrics.observe_queue(stats)
        return stats

    def end(self) -> None:
        """Wait until all windows are closed. Raises the errors of the background thread."""
        wait(self._background)
        self._raise_from_background()

    def _raise_from_background(self) -> None:
        while self._background and self._background[0].done():
            self._background.popleft().result()

    def share(self, workers: int) -> None:
        """Set the number of scorers; any thread may call this."""
        self._scorer.share(workers + self._rank, self._config.lanes(workers))
        self._lends = self._config.trainer.scores or workers == 0

    def check_fence(self) -> None:
        """Raise FencedError if a newer generation has taken over. This does not call the queue,
        which checks at each ``open`` and ``pop`` anyway."""
        self._raise_from_background()
        self._fence.check_fence()

    def rejected(self, window: int) -> list[int]:
        """Positions of ``window`` whose score was NaN or infinite, ascending."""
        return self._queue.rejected(window)

    def wait(self, window: int, k: int) -> TopK:
        """The best k candidates of a window. Raises WaitError if no scores come within
        queue.timeout_s."""
        if window in self._opening:
            self._opening.pop(window).result()  # done, unless steps are very short
        popped = self._preposted.pop(window, None) or self._wait(
            window,
            lambda timeout_s: self._queue.pop(window, k, timeout_s),
            lambda: self.open_from(window),
            lambda: self._scorer.score_ahead(window, own_lane=self._lag == 0),
        )
        if popped.version != self.version(window):
            raise RunError(
                f"window {window}: the queue gave scores by version {popped.version}, allowed"
                f" {self.version(window)} alone; empty the queue server and resume the run"
            )
        return popped

    def prepost(self, window: int, k: int) -> None:
        """Open the shortlist of ``window`` if the window is complete, before the weights that
        re-score it are published."""
        popped = self._queue.pop(window, k, timeout_s=0)
        if popped is not None and len(popped.positions):
            self._preposted = {window: popped}
            self._post(window, window, popped.positions)

    def rescore(self, window: int, version: int, positions: Positions) -> TopK:
        """Have ``positions`` [N] of a window scored again with ``version``, by the scorers and by
        this process."""

        def post() -> None:
            self._post(window, version, positions)

        post()
        return self._wait(
            window,
            lambda timeout_s: self._queue.pop(window, len(positions), timeout_s, shortlist=True),
            post,
            self._scorer.score_shortlist,
        )

    def _post(self, window: int, version: int, positions: Positions) -> None:
        chunk = self._config.selection.chunk
        self._queue.open_shortlist(window, version, positions, chunk)

    def _wait(
        self,
        window: int,
        pop: Callable[[float], TopK | None],
        post: Callable[[], None],
        score: Callable[[], bool],
    ) -> TopK:
        self._raise_from_background()
        started, scored_s = time.monotonic(), 0.0
        progress, all_mine, reclaimed, popped = _Progress(started), True, 0, None
        while popped is None:
            asked = time.monotonic()
            any_lane = self._alone or reclaimed
            mine = self._scorer.score_one() if any_lane else self._lends and score()
            if mine:
                scored_s += time.monotonic() - asked
                progress.own += 1
                reclaimed = max(0, reclaimed - 1)
                continue
            popped = pop(min(RESEND_S, self._config.queue.lease_s))
            if popped is not None:
                break
            all_mine = False
            gap_s = progress.note(self._look().accepted)
            self._longest_gap_s = max(self._longest_gap_s, gap_s)
            reclaimed = self._remind(window, started, progress.moved, post)
            if not self._alone and time.monotonic() - progress.moved > self._stall_s():
                self._alone = all_mine = True
        self._alone = self._alone and all_mine
        waited_s = time.monotonic() - started
        self.waited_s += waited_s
        self._metrics.wait_seconds.labels("window").inc(waited_s - scored_s)
        return popped

    def _stall_s(self) -> float:
        """The seconds without new scores after which the trainer scores the rest. At most a lease,
        after which tickets of dead scorers are taken back."""
        slow_s = min(STALL_GAPS * self._longest_gap_s, self._config.queue.lease_s)
        return max(STALL_S, slow_s)

    def _remind(self, window: int, started: float, moved: float, post: Callable[[], None]) -> int:
        """Call ``post`` again and, a lease after ``started``, take back expired tickets; returns
        how many. Raises WaitError if no score came since ``moved`` for queue.timeout_s."""
        self._fence.check_fence()
        post()
        now = time.monotonic()
        expired = now - started > self._config.queue.lease_s
        reclaimed = self._queue.reap() if expired else 0
        self._metrics.reclaimed.inc(reclaimed)
        if now - moved > self._config.queue.timeout_s:
            raise WaitError(
                f"step {window}: no scores for {now - moved:.0f} s (queue.timeout_s); queue:"
                f" {self._queue.stats()}; see logs/ for the scorers"
            )
        return reclaimed
