"""The scorer's loop: claim → read → [snapshot] → low-precision forward → score → push.

It waits for a ticket (the trainer opens windows ahead) and for the snapshot that the ticket names
(the trainer publishes it after its step). While it waits for weights, or computes, the points of
its next ticket are already being read by a second thread.
"""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from rhoselect.compute import threads
from rhoselect.config import Config
from rhoselect.errors import SnapshotGoneError
from rhoselect.metrics import Metrics
from rhoselect.plan import Plan
from rhoselect.queue import SelectionQueue
from rhoselect.scorer.forward import Replica
from rhoselect.selection import Scoring
from rhoselect.selection.scoring import gumbel, order
from rhoselect.snapshots import SnapshotStore
from rhoselect.types import (
    Batch,
    ChunkScores,
    Features,
    Indices,
    Points,
    Positions,
    Scores,
    Ticket,
)

CLAIM_WAIT_S = 0.25  # how long a wait may outlive a stop


@dataclass(frozen=True)
class Work:
    """A claimed ticket with its points read: ``batch`` is None if no forward is needed."""

    ticket: Ticket
    positions: Positions
    indices: Indices
    batch: Batch | None


class Scorer:
    """One scorer in slot ``slot``. Everything it needs is given; it knows no transport."""

    def __init__(
        self,
        slot: int,
        config: Config,
        plan: Plan,
        points: Points,
        first_index: int,
        scoring: Scoring,
        replica: Replica,
        queue: SelectionQueue,
        snapshots: SnapshotStore,
        metrics: Metrics,
    ) -> None:
        self._slot = slot
        self._config = config
        self._plan = plan
        self._points = points
        self._first_index = first_index
        self._scoring = scoring
        self._replica = replica
        self._queue = queue
        self._snapshots = snapshots
        self._metrics = metrics
        self._loaded: int | None = None
        self._state: dict[str, torch.Tensor] = {}

    def run(self, stop: threading.Event) -> None:
        """Score until ``stop`` is set. Tickets that an earlier life of this slot held go back."""
        self._queue.reap(self._slot)
        count = self._config.scorer.threads
        with ThreadPoolExecutor(1, "reader", torch.set_num_threads, (count,)) as reader:
            ahead: Future[Work | None] = reader.submit(self.take, CLAIM_WAIT_S)
            while not stop.is_set():
                with self._metrics.waiting("ticket"):
                    work = ahead.result()
                ahead = reader.submit(self.take, CLAIM_WAIT_S)
                if work is not None:
                    self._finish(work, stop)

    def step(self) -> bool:
        """Score one ticket here and now, without waiting; False if there was none to score yet."""
        work = self.take(timeout_s=0)
        if work is None:
            return False
        if not self._load(work.ticket.version, timeout_s=0):
            self._queue.reap(self._slot)  # its weights are not there yet: back it goes
            return False
        self._score(work)
        return True

    def take(self, timeout_s: float) -> Work | None:
        """Claim a ticket and read its points."""
        ticket = self._queue.claim(self._slot, timeout_s)
        if ticket is None:
            return None
        self._metrics.claims.inc()
        positions = self._plan.chunk_positions(ticket.window, ticket.chunk)
        indices = self._first_index + self._plan.indices(positions)
        batch = None
        if self._scoring.needs.forward:
            with self._metrics.busy("read"):
                batch = self._points.read(indices, self._replica.device)
        return Work(ticket, positions, indices, batch)

    def _finish(self, work: Work, stop: threading.Event) -> None:
        """Wait for the ticket's weights, score and push. Dropped if nobody needs it any more."""
        with contextlib.suppress(SnapshotGoneError):
            while not stop.is_set():
                if self._load(work.ticket.version, CLAIM_WAIT_S):
                    return self._score(work)

    def _load(self, version: int, timeout_s: float) -> bool:
        """Have the weights of ``version`` loaded; False if they did not come within the time."""
        if not self._scoring.needs.forward or self._loaded == version:
            return True
        started = time.monotonic()
        snapshot = self._snapshots.get(version, timeout_s)
        self._metrics.wait_seconds.labels("weights").inc(time.monotonic() - started)
        if snapshot is None:
            return False
        with self._metrics.busy("load"):
            self._replica.load(snapshot)
        self._loaded, self._state = version, dict(snapshot.state)
        return True

    def _score(self, work: Work) -> None:
        output = None
        if work.batch is not None:
            with self._metrics.busy("forward"), threads(self._config.scorer.threads):
                output = self._replica(work.batch)
            self._metrics.scored_points.inc(len(work.indices))
        scores, features = self._scoring(work.indices, output, self._state)
        pushed = self._queue.push(work.ticket, self._chunk(work, scores, features))
        self._metrics.pushes.labels("accepted" if pushed else "ignored").inc()

    def _chunk(
        self,
        work: Work,
        scores: Scores,
        features: Features | None,
    ) -> ChunkScores:
        """Reject non-finite scores, add the shortlist's noise, keep what can still be picked."""
        selection = self._config.selection
        finite = np.isfinite(scores)
        if not finite.all():
            self._metrics.rejected_points.inc(int((~finite).sum()))
        if self._config.k > 1 and selection.temperature > 0:
            noise = gumbel(self._config.seed, work.ticket.window, work.indices)
            scores = scores + selection.temperature * noise
        rows = np.flatnonzero(finite)
        if not self._scoring.function.whole_window:
            best = order(work.positions[rows], scores[rows])[: self._config.k * selection.n_b]
            rows = rows[np.sort(best)]
        return ChunkScores(
            work.positions[rows],
            scores[rows],
            work.positions[~finite],
            None if features is None else features[rows],
        )
