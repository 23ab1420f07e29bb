"""Computes the scores of a forward's output and pushes them, in a thread of its own, while the next
forward runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial

import numpy as np

from rhoselect.compute import AtOnce, single_threaded_pool
from rhoselect.inputs import SelectionInputs
from rhoselect.metrics import Metrics
from rhoselect.queue import SelectionQueue
from rhoselect.scorer.reader import Work
from rhoselect.selection.interface import State
from rhoselect.selection.scoring import Begun, gumbel
from rhoselect.types import ChunkScores, Features, ForwardOutput, Scores


class Pusher:
    """Scores and pushes one chunk at a time, in the order of ``submit``."""

    def __init__(self, inputs: SelectionInputs, queue: SelectionQueue, metrics: Metrics) -> None:
        self._config, self._scoring = inputs.config, inputs.scoring
        self._queue, self._metrics = queue, metrics
        # Where nothing waits, neither for a device nor for a server, a thread only costs time.
        at_once = queue.at_hand and inputs.config.scorer.device == "cpu"
        self._pool: Executor = AtOnce() if at_once else single_threaded_pool("pusher")
        self._pushed: Future[None] | None = None

    def submit(self, work: Work, output: ForwardOutput | None, state: State) -> None:
        """Push a chunk in the background, after waiting for the chunk before. Raises the error of
        that chunk's push."""
        begin = partial(self._scoring.begin, work.indices, output, state, work.prepared)
        on_gpu = output is not None and output.losses.is_cuda
        begun = begin() if on_gpu else None  # there before the next forward is launched
        self.settle()
        self._pushed = self._pool.submit(self._push, work, lambda: begun or begin())

    def settle(self) -> None:
        """Wait for the last push. Raises its error."""
        if self._pushed is not None:
            self._pushed.result()

    def close(self) -> None:
        """Finish the last push and end the thread. Raises its error."""
        self._pool.shutdown()
        self.settle()

    def _push(self, work: Work, score: Callable[[], Begun]) -> None:
        with self._metrics.busy("score"):
            chunk = self._chunk(work, *score().result())
        with self._metrics.busy("push"):
            pushed = self._queue.push(work.ticket, chunk)
        self._metrics.pushes.labels("accepted" if pushed else "ignored").inc()

    def _chunk(
        self,
        work: Work,
        scores: Scores,
        features: Features | None,
    ) -> ChunkScores:
        """Reject non-finite scores, add Gumbel noise if a shortlist follows, and drop points that
        cannot be among the best of their window."""
        selection, ticket = self._config.selection, work.ticket
        finite = np.isfinite(scores)
        if not finite.all():
            self._metrics.rejected_points.inc(int((~finite).sum()))
        rows = np.flatnonzero(finite)
        if ticket.positions is None:  # of a shortlist, the pick may need all points
            k = self._config.k
            if k > 1 and selection.temperature > 0:
                noise = gumbel(self._config.seed, ticket.window, work.indices)
                scores = scores + selection.temperature * noise
            most = len(rows) if self._scoring.function.whole_window else k * selection.n_b
            if len(rows) > most:  # equal scores stay: the queue orders them by position
                worst = np.partition(scores[rows], -most)[-most]
                rows = rows[scores[rows] >= worst]
        return ChunkScores(
            work.positions[rows],
            scores[rows],
            work.positions[~finite],
            None if features is None else features[rows],
        )
