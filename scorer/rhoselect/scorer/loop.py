"""The scorer's loop: claim → read → [snapshot] → low-precision forward → score → push.

It waits for a ticket (the trainer opens windows ahead) and for the snapshot that the ticket names
(the trainer publishes it after its step). A second thread (``reader``) reads the points of the next
tickets before their weights exist. A third thread (``pusher``) scores and pushes one chunk while
the forward of the next chunk runs. So there is no gap between forwards.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque

from rhoselect.compute import enough_memory, repeatable, threads
from rhoselect.errors import SnapshotGoneError
from rhoselect.inputs import SelectionInputs
from rhoselect.metrics import Metrics
from rhoselect.models.replica import Replica
from rhoselect.queue import SelectionQueue
from rhoselect.scorer.pusher import Pusher
from rhoselect.scorer.reader import Arriving, Reader, Work
from rhoselect.scorer.weights import Weights
from rhoselect.selection.scoring import CPU
from rhoselect.snapshots import SnapshotReader
from rhoselect.types import Layout, Stage

CLAIM_WAIT_S = 0.25  # longest wait of a call, so that a stop takes effect soon


class Scorer:
    """One scorer in slot ``slot``. It works with any transport of tickets and weights.

    Its lane of the queue is its slot; there are ``lanes`` lanes. It reads the points of up to
    ``scorer.prefetch`` tickets before their weights exist, so that only the forward and the push
    remain when the weights arrive. ``weights`` has the replica.
    """

    def __init__(
        self,
        inputs: SelectionInputs,
        replica: Replica,
        queue: SelectionQueue,
        snapshots: SnapshotReader,
        metrics: Metrics,
        slot: int,
        lanes: int,
    ) -> None:
        self._slot, self._lanes = slot, lanes
        self._old_slots: deque[int] = deque()
        self._config, self._plan, self._points = inputs.config, inputs.plan, inputs.train
        self._scoring, self._replica = inputs.scoring, replica
        self._queue, self._metrics = queue, metrics
        self.weights = Weights(replica, snapshots, metrics)
        self._ahead: Reader | None = None
        self._pusher, self._arriving = Pusher(inputs, queue, metrics), Arriving(replica.device)

    @property
    def metrics(self) -> Metrics:
        """The metrics of this process."""
        return self._metrics

    @property
    def layout(self) -> Layout:
        """The tensors that a snapshot for this scorer holds."""
        return self._replica.layout

    def run(self, stop: threading.Event) -> None:
        """Score until ``stop`` is set. First give back tickets that an earlier process of this slot
        held."""
        self.release()
        config = self._config
        reading = Reader(self._take_own, config.scorer.prefetch, CLAIM_WAIT_S)
        with repeatable(self._replica.device, config.compute.tf32), reading as reader:
            while not stop.is_set():
                work = self._next(reader)
                if work is None:
                    if not self.score_shortlist():
                        self._take_over(reader, newest=None)
                elif self._finish(work, reader):
                    reader.drop(work)
        self._pusher.close()

    def _next(self, reader: Reader) -> Work | None:
        """The reader's next ticket. Counts the wait for its claim and that for its data apart."""
        started = time.perf_counter()
        work = reader.next()
        ended = time.perf_counter()
        claimed = ended if work is None else max(started, work.claimed_at)
        self._metrics.wait_seconds.labels("ticket").inc(claimed - started)
        self._metrics.wait_seconds.labels("data").inc(ended - claimed)
        return work

    def share(self, slot: int, lanes: int) -> None:
        """Change the slot and the number of lanes; any thread may call this. Lanes are hints:
        tickets claimed with the old numbers stay valid."""
        if slot != self._slot:
            self._old_slots.append(self._slot)
        self._slot, self._lanes = slot, lanes

    def release(self) -> None:
        """Give back all tickets leased to this slot or to the slots before it."""
        while self._old_slots:
            self._queue.reap(self._old_slots.popleft())
        self._queue.reap(self._slot)

    def score_one(self) -> bool:
        """Score the lowest ticket of any lane, without waiting.

        Returns False if no ticket could be scored yet.
        """
        self._give_back()
        work = self._take(0, lanes=1, loaded=None)
        if work is None:
            return False
        if not self._load(work.ticket.version, timeout_s=0):
            self.release()  # its weights are not published yet: another scorer may claim it
            return False
        self._score(work)
        return True

    def score_ahead(self, window: int, own_lane: bool) -> bool:
        """Score a ticket of ``window`` or one before it, without waiting for weights.

        For a trainer that would otherwise idle. With ``own_lane`` the trainer has a lane, and the
        points of its next tickets are read while it trains. Without, it claims tickets that the
        scorers have not claimed. Returns False if no ticket could be scored yet.
        """
        if not own_lane:
            return self._score_waiting(window)
        if self._ahead is None:
            scorer = self._config.scorer
            self._ahead = Reader(self._take_own, scorer.prefetch, timeout_s=0)
        work = self._ahead.next()
        if work is None and self._lanes == 1:  # the claims were made before the window was open
            work = self._ahead.next()
        if work is None or work.ticket.window > window:
            return False
        try:
            if not self._load(work.ticket.version, timeout_s=0):
                return False  # its weights are not published yet: keep the ticket
            self._score(work)
        except SnapshotGoneError:
            pass  # the window is closed, so drop the ticket
        self._ahead.drop(work)
        self._ahead.fill()
        return True

    def _score_waiting(self, window: int) -> bool:
        self._give_back()
        work = self._take_own(timeout_s=0)
        if work is None:
            return False
        if work.ticket.window > window or not self._load(work.ticket.version, timeout_s=0):
            self.release()
            return False
        self._score(work)
        return True

    def _give_back(self) -> None:
        """Give back the tickets that were claimed ahead."""
        if self._ahead is not None and self._ahead.clear():
            self.release()

    def score_shortlist(self) -> bool:
        """Score a ticket of a shortlist, for which the trainer waits. Returns False if there is
        none."""
        if not self._config.scorers_rescore:
            return False
        work = self._take(0, lanes=1, loaded=None, only="shortlist")
        if work is None:
            return False
        try:
            if not self._load(work.ticket.version, CLAIM_WAIT_S):
                self.release()  # do not make the trainer wait until the lease expires
                return False
            self._score(work)
        except SnapshotGoneError:
            self.release()
        return True

    def _take_own(self, timeout_s: float) -> Work | None:
        """Claim a ticket of this lane, or of another lane if its weights are loaded."""
        version = self.weights.version
        loaded = -1 if version is None else version
        return self._take(timeout_s, self._lanes, loaded, only="candidates")

    def _take(
        self, timeout_s: float, lanes: int, loaded: int | None, only: Stage | None = None
    ) -> Work | None:
        """Claim a ticket and read its points: see `SelectionQueue.claim`."""
        ticket = self._queue.claim(self._slot, timeout_s, lanes, loaded, only)
        if ticket is None:
            return None
        claimed_at = time.perf_counter()
        self._metrics.claims.inc()
        positions = ticket.positions
        if positions is None:
            positions = self._plan.chunk_positions(ticket.window, ticket.chunk)
            indices = self._plan.chunk_indices(ticket.window, ticket.chunk)
        else:
            indices = self._plan.indices(positions)
        if self._points.far:
            self._points.prefetch(self._plan.indices(self._plan.ahead(positions)))
        batch, device = None, self._replica.device if self._scoring.needs.forward else CPU
        with self._metrics.busy("read"), self._arriving.beside() as arrival:
            if self._scoring.needs.forward:
                batch = self._points.read(indices, device, self._plan.epochs(positions))
            prepared = self._scoring.prepare(indices, device)
        return Work(ticket, positions, indices, batch, prepared, claimed_at, arrival)

    def _take_over(self, reader: Reader, newest: int | None) -> None:
        """While weights do not come, hold a ticket of any lane and of a version up to ``newest``,
        too: its scorer may have died, and all others may have claimed as many tickets of later
        windows as they can hold."""
        work = self._take(0, lanes=0, loaded=newest, only="candidates")
        if work is not None:
            reader.hold(work)

    def _finish(self, work: Work, reader: Reader) -> bool:
        """Score and push a ticket once its weights are published. Returns whether the ticket is
        finished: scored, or dropped because its window is closed."""
        try:
            loaded = self._load(work.ticket.version, CLAIM_WAIT_S)
            if self.score_shortlist():
                return False  # the shortlist may have loaded other weights: try again
            if loaded:
                self._score(work)
            else:
                self._take_over(reader, work.ticket.version - 1)
            return loaded
        except SnapshotGoneError:
            self.release()  # retired, or its writer stopped; if needed, the ticket is claimed again
            return True

    def _load(self, version: int, timeout_s: float) -> bool:
        """Load the weights of ``version`` if scores need any; False after ``timeout_s``."""
        return not self._scoring.needs.forward or self.weights.load(version, timeout_s)

    def _score(self, work: Work) -> None:
        """Start the forward and pass its output to the pusher. On a GPU, do not wait for it."""
        output = None
        if work.batch is not None:
            busy = self._metrics.busy("forward", self._replica.device)
            who = f"scoring in slot {self._slot}, process {os.getpid()}"
            with enough_memory(who), busy, threads(self._config.scorer.threads):
                output = self._replica(self._arriving.waited(work.batch, work))
            self._metrics.scored_points.inc(len(work.indices))
        self._pusher.submit(work, output, self.weights.state)
