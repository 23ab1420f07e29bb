"""Scored points a second through one queue server, and how long the trainer's pop takes.

As in a run, client processes claim tickets and push scores, while this process, as the trainer
does, opens windows ahead, waits for each, pops its best tenth (n_b) and closes it. Scores are made
beforehand: this is the queue alone. Rates are candidates of the windows completed in a second:

- ``scored_per_s``: a push holds what the lossless pre-filter leaves of a chunk, its best n_b points
  (chunks that are no larger than n_b stay whole: the same figure as the next);
- ``members_per_s``: pushes hold whole chunks;
- ``bare_members_per_s``: a yardstick, not a queue: the same clients send the same members as plain
  ZADDs, a command a chunk, in redis-py pipelines of up to 64; nobody claims, counts, pops.

Pops are timed with no window open ahead, so that the clients end up waiting for tickets: the
call, in the trainer's process, that finds a complete window. The arms of a row take turns; a rate
is the median of its rounds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import redis
from rich.console import Console
from rich.progress import track
from rich.table import Table

import arguments
from rhoselect.queue.redis import RedisQueue
from rhoselect.queue.redis.packing import pack_positions
from rhoselect.report.origin import origin
from rhoselect.runtime.queue_server import EmbeddedServer
from rhoselect.selection.scoring import order
from rhoselect.types import ChunkScores, Ticket

CLIENTS = [1, 4, 16]
# n_B, chunk. Where 256 does not divide the window, the nearest one that it does divide.
SIZES = [(320, 20), (256, 256), (3200, 20), (3328, 256), (32_000, 20), (32_000, 256)]
ROUNDS = 3
AHEAD = 3
POPS = 300
POPS_A_WINDOW = 5
PIPELINE = 64
SEED = 0
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one round of one arm")
    options = arguments.parse(parser, clients=[1], seconds=0.05)
    rows = []
    with tempfile.TemporaryDirectory() as scratch, EmbeddedServer(Path(scratch) / "log") as server:
        for count in options.clients:
            with Clients(server.url, count) as clients:
                for n_B, chunk in track(SIZES, f"{count} clients"):
                    rows.append(row(server.url, clients, n_B, chunk, options.seconds))
    show(rows)
    if options.json is not None:
        described = {**origin(), "seed": SEED, "rounds": ROUNDS, "seconds": options.seconds}
        options.json.write_text(json.dumps({**described, "rows": rows}, indent=2) + "\n")


def row(url: str, clients: Clients, n_B: int, chunk: int, seconds: float) -> Figures:
    """All figures of one size and number of clients."""
    n_b = n_B // 10
    keeps = sorted({min(chunk, n_b), chunk})
    rates: dict[int, list[float]] = {keep: [] for keep in keeps}
    bare = []
    for _ in range(ROUNDS):
        for keep in keeps:
            with clients.scoring(n_B, chunk, keep) as queue:
                rates[keep].append(windows_per_s(queue, n_B // chunk, n_b, seconds) * n_B)
        bare.append(clients.bare_members_per_s(n_B, chunk, seconds))
    with clients.scoring(n_B, chunk, keeps[0]) as queue:
        pops_ms = time_pops(queue, n_B // chunk, n_b, 4 * seconds)
    return {
        "clients": clients.count,
        "n_B": n_B,
        "chunk": chunk,
        "n_b": n_b,
        "scored_per_s": round(median(rates[keeps[0]])),
        "members_per_s": round(median(rates[chunk])),
        "bare_members_per_s": round(median(bare)),
        "ratio_to_bare": round(median(rates[chunk]) / median(bare), 3),
        "pop_p50_ms": round(float(np.percentile(pops_ms, 50)), 3),
        "pop_p99_ms": round(float(np.percentile(pops_ms, 99)), 3),
        "pops": len(pops_ms),
        "bytes_per_point": round(bytes_per_point(url, n_B, chunk), 1),
    }


def windows_per_s(queue: RedisQueue, chunks: int, n_b: int, seconds: float) -> float:
    """A trainer at full speed; the first windows are not counted."""
    started, first, window = 0.0, AHEAD, 0
    for ahead in range(AHEAD):
        queue.open(ahead, 0, chunks)
    while window <= first or time.perf_counter() - started < seconds:
        if window == first:
            started = time.perf_counter()
        queue.open(window + AHEAD, 0, chunks)
        assert queue.pop(window, n_b, 60.0) is not None
        queue.close(window)
        window += 1
    return (window - first) / (time.perf_counter() - started)


def time_pops(queue: RedisQueue, chunks: int, n_b: int, seconds: float) -> list[float]:
    """Milliseconds of pops of complete windows; of every window the first and a few more."""
    times: list[float] = []
    deadline, window = time.perf_counter() + seconds, 0
    while len(times) < POPS and (window < 3 or time.perf_counter() < deadline):
        queue.open(window, 0, chunks)
        assert queue.pop(window, 1, 60.0) is not None
        for _ in range(POPS_A_WINDOW):
            started = time.perf_counter()
            popped = queue.pop(window, n_b, 0.0)
            times.append(1000 * (time.perf_counter() - started))
            assert popped is not None and len(popped.positions) == n_b
        queue.close(window)
        window += 1
    return times


def bytes_per_point(url: str, n_B: int, chunk: int) -> float:
    """Memory that the server uses for a point of a window of whole chunks."""
    windows = max(1, 32_000 // n_B)
    queue = new_queue(url, "memory")
    with redis.Redis.from_url(url) as admin:
        before = admin.info("memory")["used_memory"]
        for window in range(windows):
            queue.open(window, 0, n_B // chunk)
            for number, scores in enumerate(chunk_scores(n_B, chunk, chunk)):
                queue.push(Ticket(window, number, 0), scores)
        used = admin.info("memory")["used_memory"] - before
    queue.destroy()
    queue.disconnect()
    return float(used / (windows * n_B))


def chunk_scores(n_B: int, chunk: int, keep: int) -> list[ChunkScores]:
    """The pushes of a window: of every chunk the best ``keep`` points, as the scorer keeps them."""
    scores = np.random.default_rng(SEED).standard_normal(n_B)
    positions = np.arange(n_B, dtype=np.uint64)
    pushes = []
    for start in range(0, n_B, chunk):
        here = slice(start, start + chunk)
        rows = np.sort(order(positions[here], scores[here])[:keep])
        pushes.append(ChunkScores(positions[here][rows], scores[here][rows]))
    return pushes


def new_queue(url: str, run: str) -> RedisQueue:
    """The queue of one round."""
    return RedisQueue(url, run, 1, lease_s=60.0, expiry_s=600.0, timeout_s=30.0)


class Clients:
    """Client processes, which wait on their pipes for rounds to take part in."""

    def __init__(self, url: str, count: int) -> None:
        self.count = count
        self._url = url
        self._rounds = 0
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        pipes = [context.Pipe() for _ in range(count)]
        self._pipes = [near for near, _ in pipes]
        self._processes = [
            context.Process(target=serve, args=(far, url, number, count), daemon=True)
            for number, (_, far) in enumerate(pipes)
        ]

    def __enter__(self) -> Clients:
        for process in self._processes:
            process.start()
        self._all(None)
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.send("end")
        for process in self._processes:
            process.join()

    def _all(self, task: Any) -> list[Any]:
        """Send ``task`` to all; their answers."""
        for pipe in self._pipes:
            pipe.send(task)
        return [pipe.recv() for pipe in self._pipes]

    @contextmanager
    def scoring(self, n_B: int, chunk: int, keep: int) -> Iterator[RedisQueue]:
        """A queue at which all clients claim and push until the block ends."""
        self._rounds += 1
        run = f"round-{self._rounds}"
        self._all(("score", run, n_B, chunk, keep))
        queue = new_queue(self._url, run)
        yield queue
        self._all("stop")
        queue.destroy()
        queue.disconnect()

    def bare_members_per_s(self, n_B: int, chunk: int, seconds: float) -> float:
        """Members that all clients together send as plain ZADDs in a second."""
        return float(sum(self._all(("bare", n_B, chunk, seconds))))


def serve(pipe: Connection, url: str, worker: int, lanes: int) -> None:
    """A client process: does what comes through its pipe, and answers when it is ready."""
    pipe.recv()
    pipe.send(None)
    while (task := pipe.recv()) != "end":
        name, *args = task
        if name == "score":
            score(pipe, url, worker, lanes, *args)
        else:
            pipe.send(send_bare(url, worker, *args))


def score(
    pipe: Connection, url: str, worker: int, lanes: int, run: str, n_B: int, chunk: int, keep: int
) -> None:
    """A scorer that needs no time to score, until the pipe says stop."""
    queue, pushes = new_queue(url, run), chunk_scores(n_B, chunk, keep)
    pipe.send("ready")
    while True:
        ticket = queue.claim(worker, 0.1, lanes)
        if ticket is not None:
            queue.push(ticket, pushes[ticket.chunk])
        elif pipe.poll():
            break
    queue.disconnect()
    pipe.send(pipe.recv())


def send_bare(url: str, worker: int, n_B: int, chunk: int, seconds: float) -> float:
    """Members a second that this client sends as plain ZADDs, a window at a time."""
    commands = []
    for push in chunk_scores(n_B, chunk, chunk):
        packed = pack_positions(push.positions)
        members = [packed[at : at + 8] for at in range(0, len(packed), 8)]
        commands.append(dict(zip(members, push.scores.tolist(), strict=True)))
    sent, started = 0, time.perf_counter()
    with redis.Redis.from_url(url) as client:
        while time.perf_counter() - started < seconds:
            for start in range(0, len(commands), PIPELINE):
                with client.pipeline(transaction=False) as pipe:
                    for scores in commands[start : start + PIPELINE]:
                        pipe.zadd(f"bare-{worker}", scores)
                    pipe.execute()
            client.unlink(f"bare-{worker}")
            sent += n_B
        return sent / (time.perf_counter() - started)


def show(rows: list[Figures]) -> None:
    """The rows as a table."""
    table = Table(*(name.replace("_", " ") for name in rows[0]))
    for each in rows:
        table.add_row(*(f"{value:,}" for value in each.values()))
    Console(width=160).print(table)
