"""Processes that ``rhoctl plan`` starts: they load what it publishes and compute at the same time.

A peer opens the inputs of the same run, reports that it is ready, and answers one JSON message at a
time. It ends when its pipe is closed, also because the process that started it has died.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from rhoselect import config as configuration
from rhoselect.compute import make_current, resolve_device
from rhoselect.errors import RunError
from rhoselect.inputs import RunInputs, open_inputs
from rhoselect.models.replica import Replica
from rhoselect.planning.sharing import exchanged
from rhoselect.snapshots.shm import SharedMemoryStore
from rhoselect.types import Batch

LEAST_FORWARDS = 3
START_S = 60.0
ANSWER_S = 30.0


class Peer:
    """The end of the pipe to a peer in the process that started it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def tell(self, **message: Any) -> None:
        """Send it a task."""
        self._connection.send_bytes(json.dumps(message).encode())

    def answer(self, timeout_s: float = ANSWER_S) -> float:
        """The result of the task. Raises RunError if the peer died or does not answer."""
        try:
            if self._connection.poll(timeout_s):
                return float(json.loads(self._connection.recv_bytes()))
        except (EOFError, OSError):
            pass
        raise RunError("a second process for the calibration died or did not answer")


@contextmanager
def started_peers(
    inputs: RunInputs, folder: Path, count: int
) -> Iterator[tuple[list[Peer], float]]:
    """``count`` peers that are ready, and the seconds until they were; they end with the block.
    ``folder`` holds the snapshots."""
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")
    text = inputs.config.model_dump_json()
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            mine, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, text, folder), daemon=True)
            process.start()
            theirs.close()
            stack.callback(process.join)
            stack.callback(process.terminate)
            found.append(Peer(mine))
        for peer in found:
            peer.answer(START_S)
        yield found, time.monotonic() - began


def forwards(replica: Replica, batch: Batch, seconds: float) -> float:
    """Median seconds of a chunk's forward, of as many as take ``seconds``, at least of three."""
    times: list[float] = []
    while sum(times) < seconds or len(times) < LEAST_FORWARDS:
        started = time.perf_counter()
        replica(batch).losses.sum().item()  # waits for the device
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def first_chunk(inputs: RunInputs, device: torch.device) -> Batch:
    """The points of the first chunk of a run."""
    indices = inputs.plan.indices(inputs.plan.chunk_positions(0, 0))
    return inputs.train.read(indices, device)


def scoring_replica(inputs: RunInputs, **other: str) -> Replica:
    """A replica as a scorer has it, but for ``other`` keys of [scorer]."""
    config = inputs.config
    device = resolve_device(config.scorer.device, "scorer.device")
    scorer = config.scorer.model_copy(update=other)
    with_it = replace(inputs, config=config.model_copy(update={"scorer": scorer}))
    return with_it.new_replica(device)


def _work(connection: Connection, text: str, folder: Path) -> None:
    inputs = open_inputs(configuration.from_json(text))
    torch.set_num_threads(inputs.config.scorer.threads)
    replica = scoring_replica(inputs)
    make_current(replica.device)
    batch = first_chunk(inputs, replica.device)
    store = SharedMemoryStore(folder, writer=False)

    def load(version: int) -> float:
        """When the weights of ``version`` were loaded, by time.monotonic."""
        store.load(version, replica.load, ANSWER_S)
        return time.monotonic()

    def exchange(meeting: str, numbers: int, beside: int, scores: int) -> float:
        """What two ranks tell each other: the other end of ``messaging.exchange``."""
        return exchanged(inputs, 1, meeting, numbers, beside, scores).sum_s

    tasks: dict[str, Callable[..., float]] = {
        "exchange": exchange,
        "load": load,
        "forwards": lambda seconds: forwards(replica, batch, seconds),
    }
    connection.send_bytes(b"0")
    try:
        while True:
            message = json.loads(connection.recv_bytes())
            result = tasks[message.pop("task")](**message)
            connection.send_bytes(json.dumps(result).encode())
    except (EOFError, OSError, KeyboardInterrupt):
        store.close()
