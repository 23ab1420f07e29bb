"""What messages cost in a run: weights through a snapshot store, scores through a queue.

``rhoctl plan`` measures them with real messages, within one process and between two. Seconds are
medians.
"""

from __future__ import annotations

import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from rhoselect.inputs import RunInputs
from rhoselect.metrics import Metrics
from rhoselect.models.replica import Replica
from rhoselect.planning.model import Exchange
from rhoselect.planning.peers import Peer
from rhoselect.planning.sharing import exchanged
from rhoselect.queue import SelectionQueue
from rhoselect.queue.redis import RedisQueue, check_server
from rhoselect.runtime.machine import scratch
from rhoselect.runtime.queue_address import queue_url
from rhoselect.runtime.queue_server import EmbeddedServer
from rhoselect.scorer.pusher import Pusher
from rhoselect.scorer.reader import Work
from rhoselect.snapshots import SnapshotStore
from rhoselect.trainer.learner import Learner
from rhoselect.types import Batch, Ticket

MEASURE_S = 2.0  # what a measurement may take
MOST_REPEATS = 40
PATIENCE_S = 30.0
SCORE_BYTES = 16  # of a point: its position and its score
_T = TypeVar("_T")


def publishing(
    inputs: RunInputs,
    learner: Learner,
    replica: Replica,
    store: SnapshotStore,
    peer: Peer | None,
) -> tuple[float, float]:
    """Seconds from the start of a publish until this process and ``peer`` have loaded it, and of a
    load by itself."""
    state = inputs.scoring.function.initial_state(inputs.classes)
    dtypes = {name: like.dtype for name, like in replica.layout.items()}
    times: list[tuple[float, float]] = []
    began = time.monotonic()
    while len(times) < MOST_REPEATS and time.monotonic() - began < MEASURE_S:
        version = len(times)
        if peer is not None:
            peer.tell(task="load", version=version)
        started = time.monotonic()
        store.publish(version, learner.tensors, dtypes, state)
        published = time.monotonic()
        store.load(version, replica.load, PATIENCE_S)
        loaded = time.monotonic()
        last = loaded if peer is None else max(loaded, peer.answer())
        store.retire(version)
        times.append((last - started, loaded - published))
    publish_s, load_s = map(statistics.median, zip(*times, strict=True))
    return publish_s, load_s


def exchange(inputs: RunInputs, learner: Learner, peer: Peer) -> Exchange:
    """What this process and ``peer`` take to sum gradients and to tell each other scores, as ranks.
    Raises RunError."""
    proxy = None if learner.scoring is learner else learner.scoring
    own = [each for each in (learner, *learner.others.values()) if each is not proxy]
    counts = {
        "numbers": sum(map(_numbers, own)),
        "beside": 0 if proxy is None else _numbers(proxy),
        "scores": SCORE_BYTES * inputs.plan.chunk,
    }
    with tempfile.TemporaryDirectory(prefix="rhoselect-") as folder:
        meeting = str(Path(folder) / "meeting")
        peer.tell(task="exchange", meeting=meeting, **counts)
        found = exchanged(inputs, 0, meeting, **counts)
        peer.answer()
    return found


def _numbers(learner: Learner) -> int:
    """How many gradients in float32 are as large as those of a network."""
    return sum(p.nbytes for p in learner.model.parameters() if p.requires_grad) // 4


@contextmanager
def redis_queue(inputs: RunInputs) -> Iterator[RedisQueue]:
    """A queue on the configured server, or on an embedded one; its keys are deleted at the end."""
    config = inputs.config.queue
    with ExitStack() as stack:
        url = queue_url(config)
        if url is None:
            folder = stack.enter_context(scratch("plan"))
            url = stack.enter_context(EmbeddedServer(folder / "server.log")).url
        check_server(url)
        expiry_s = 60 * PATIENCE_S
        queue = RedisQueue(url, secrets.token_hex(8), 0, config.lease_s, expiry_s, PATIENCE_S)
        stack.callback(queue.disconnect)
        stack.callback(queue.destroy)
        yield queue


def queueing(
    inputs: RunInputs, replica: Replica, chunk: Batch, queue: SelectionQueue
) -> tuple[float, float, float]:
    """Seconds of a claim, of scoring and pushing a chunk, and of a window: open, pop and close.

    Whole windows, each of whose chunks has the losses of ``chunk``.
    """
    plan, k, output = inputs.plan, _wanted(inputs), replica(chunk)
    state = inputs.scoring.function.initial_state(inputs.classes)
    prepared = inputs.scoring.prepare(chunk.indices, replica.device)
    claims: list[float] = []
    pushes: list[float] = []
    windows: list[float] = []
    with closing(Pusher(inputs, queue, Metrics("scorer"))) as pusher:

        def push(ticket: Ticket) -> None:
            positions = plan.chunk_positions(ticket.window, ticket.chunk)
            work = Work(ticket, positions, chunk.indices, chunk, prepared, 0.0)
            pusher.submit(work, output, state)
            pusher.settle()

        began = time.perf_counter()
        while len(windows) < MOST_REPEATS and time.perf_counter() - began < MEASURE_S:
            window, calls = len(windows), list[float]()
            _timed(calls, partial(queue.open, window, 0, plan.chunks))
            for _ in range(plan.chunks):
                ticket = _timed(claims, partial(queue.claim, 0, 0.0))
                assert ticket is not None, "as many as were opened"
                _timed(pushes, partial(push, ticket))
            _timed(calls, partial(queue.pop, window, k, PATIENCE_S))
            _timed(calls, partial(queue.close, window))
            windows.append(sum(calls))
    claim_s, push_s, window_s = map(statistics.median, (claims, pushes, windows))
    return claim_s, push_s, window_s


def _wanted(inputs: RunInputs) -> int:
    """How many points of a window a trainer pops at lag 0."""
    selection = inputs.config.selection
    return selection.n_B if inputs.scoring.function.whole_window else selection.n_b


def _timed(times: list[float], call: Callable[[], _T]) -> _T:
    """The result of ``call``, whose seconds are added to ``times``."""
    started = time.perf_counter()
    result = call()
    times.append(time.perf_counter() - started)
    return result
