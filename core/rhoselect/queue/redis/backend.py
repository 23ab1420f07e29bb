"""The queue on a Redis-protocol server (Redis >= 6.2, Valkey >= 8): one atomic script per call.

The server keeps a chunk's points as one value; the trainer, which pops them, puts them in order.
``keys`` lists all keys.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from rhoselect.queue.base import HELPERS, best, slices
from rhoselect.queue.redis.keys import Keys, stage
from rhoselect.queue.redis.link import Args, Link
from rhoselect.queue.redis.packing import (
    POINT,
    pack_points,
    pack_positions,
    unpack_points,
    unpack_positions,
)
from rhoselect.types import ChunkScores, Positions, QueueStats, Stage, Ticket, TopK

_SCRIPTS = ("fence", "open", "claim", "push", "pop", "close", "reap")


_PARITY: dict[Stage | None, int] = {"shortlist": 0, "candidates": 1, None: -1}


class RedisQueue:
    """A `SelectionQueue` on the server at ``url``, for one run and one trainer generation.

    A lease expires ``lease_s`` seconds after its claim. Keys expire ``expiry_s`` after the last
    `open`; a waiting trainer repeats `open`. A call raises WaitError, which names the server, after
    ``timeout_s`` without an answer.
    """

    at_hand = False

    def __init__(
        self,
        url: str,
        run_id: str,
        generation: int,
        lease_s: float,
        expiry_s: float,
        timeout_s: float,
    ) -> None:
        self._link = Link(url, timeout_s, _SCRIPTS)
        self._keys = Keys(run_id, generation)
        self._lease_ms = max(1, round(lease_s * 1000))
        self._expiry_ms = max(1, round(expiry_s * 1000))

    def open(self, window: int, version: int, chunks: int) -> None:
        """See `SelectionQueue.open`."""
        self._open(stage(window, False), version, chunks, [])

    def open_shortlist(self, window: int, version: int, positions: Positions, chunk: int) -> None:
        """See `SelectionQueue.open_shortlist`."""
        parts = [pack_positions(part) for part in slices(positions, chunk)]
        self._open(stage(window, True), version, len(parts), parts)

    def _open(self, number: int, version: int, chunks: int, parts: list[bytes]) -> None:
        k = self._keys
        keys = [*k.run(), *k.stage(number).all(), k.newest]
        args = [number, version, chunks, self._expiry_ms, k.generation]
        self._link.run("open", keys, [*args, *parts])

    def claim(
        self,
        worker: int,
        timeout_s: float,
        lanes: int = 1,
        loaded: int | None = None,
        only: Stage | None = None,
    ) -> Ticket | None:
        """See `SelectionQueue.claim`."""
        k = self._keys
        keys = [k.stages, k.todo, k.leases, k.shortlists, k.notify]
        newest = b"" if loaded is None else loaded
        lane = worker % HELPERS
        args: Args = [worker, lanes, newest, self._lease_ms, self._expiry_ms, _PARITY[only], lane]
        found = self._link.wait("claim", keys, args, k.notify, timeout_s)
        if found is None:
            return None
        ticket, points = found
        number, chunk, version = map(int, ticket.split(b":"))
        positions = unpack_positions(points) if points is not None else None
        return Ticket(number // 2, chunk, version, positions)

    def push(self, ticket: Ticket, scores: ChunkScores) -> bool:
        """See `SelectionQueue.push`."""
        k, number = self._keys, stage(ticket.window, ticket.positions is not None)
        here = k.stage(number).all()
        keys = [k.stages, k.todo, k.leases, k.counters, k.ready, *here]
        rows = scores.features
        args: Args = [
            number,
            ticket.chunk,
            ticket.version,
            self._expiry_ms,
            pack_points(scores.positions, scores.scores),
            pack_positions(scores.rejected),
            b"" if rows is None else rows.astype("<f4").tobytes(),
        ]
        return bool(self._link.run("push", keys, args))

    def pop(self, window: int, k: int, timeout_s: float, shortlist: bool = False) -> TopK | None:
        """See `SelectionQueue.pop`."""
        names, number = self._keys, stage(window, shortlist)
        here, args = names.stage(number), [number, k, names.generation]
        keys = [names.stages, names.ready, here.scores, here.features, names.newest]
        found = self._link.wait("pop", keys, args, names.ready, timeout_s)
        if found is None:
            return None
        version, points, rows = found
        return best(window, int(version), _unpacked(points, rows), k)

    def peek(self, k: int) -> TopK | None:
        """See `SelectionQueue.peek`."""
        assert k >= 1
        stages = self._open_stages()
        number = min((number for number in stages if number % 2), default=None)
        if number is None:
            return None
        (scores,) = self._hashes([self._keys.stage(number).scores])
        return best(number // 2, stages[number], _unpacked(b"".join(scores.values()), b""), k)

    def rejected(self, window: int) -> list[int]:
        """See `SelectionQueue.rejected`."""
        keys = [self._keys.stage(stage(window, shortlist)).rejected for shortlist in (True, False)]
        packed = chain.from_iterable(hash.values() for hash in self._hashes(keys))
        return sorted(set(unpack_positions(b"".join(packed)).tolist()))

    def close(self, window: int) -> None:
        """See `SelectionQueue.close`."""
        k, last = self._keys, stage(window, False)
        both = [*k.stage(last - 1).all(), *k.stage(last).all()]
        keys = [k.closed, k.stages, k.todo, k.leases, k.shortlists, *both]
        below = self._link.run("close", keys, [last, self._expiry_ms])
        if below:  # only if the trainer skipped windows
            names = list(chain.from_iterable(k.stage(int(number)).all() for number in below))
            self._link.with_retries(lambda: self._link.client.unlink(*names))

    def reap(self, worker: int | None = None) -> int:
        """See `SelectionQueue.reap`."""
        k = self._keys
        slot = b"" if worker is None else worker
        keys = [k.todo, k.leases, k.counters, k.notify]
        return int(self._link.run("reap", keys, [slot, self._expiry_ms]))

    def stats(self) -> QueueStats:
        """See `SelectionQueue.stats`."""
        k, stages = self._keys, self._open_stages()

        def look() -> list[Any]:
            with self._link.client.pipeline(transaction=False) as pipe:
                pipe.hgetall(k.counters)
                pipe.zcard(k.todo)
                pipe.hlen(k.leases)
                pipe.info("memory")
                for number in stages:
                    pipe.hgetall(k.stage(number).scores)
                return pipe.execute()

        counters, waiting, leased, memory, *scores = self._link.with_retries(look)
        return QueueStats(
            windows=len({number // 2 for number in stages}),
            waiting=waiting,
            leased=leased,
            points=sum(len(each) for hash in scores for each in hash.values()) // POINT.itemsize,
            oldest_version=min(stages.values(), default=None),
            server_bytes=memory["used_memory"],
            server_limit_bytes=memory["maxmemory"],
            **{name.decode(): int(count) for name, count in counters.items()},
        )

    def destroy(self) -> None:
        """See `SelectionQueue.destroy`."""
        names = [self._keys.stage(number).all() for number in self._open_stages()]
        keys = [*self._keys.run(), *chain.from_iterable(names), *self._link.announced(self._keys)]
        self._link.with_retries(lambda: self._link.client.unlink(*keys))

    def check_fence(self) -> None:
        """Announce this generation. Raises FencedError if a newer one is announced."""
        self._link.check_fence(self._keys, self._expiry_ms)

    def disconnect(self) -> None:
        """Close this process's connections. The queue itself stays on the server."""
        self._link.close()

    def _hashes(self, keys: list[str]) -> list[dict[bytes, bytes]]:
        client: Any = self._link.client
        return self._link.with_retries(lambda: [client.hgetall(key) for key in keys])

    def _open_stages(self) -> dict[int, int]:
        """The version of each open stage, by stage number."""
        entries: Any = self._link.with_retries(lambda: self._link.client.hgetall(self._keys.stages))
        return {int(number): int(entry.split()[0]) for number, entry in entries.items()}


def _unpacked(points: bytes, features: bytes) -> ChunkScores:
    """The points of all chunks, and their rows of features if there are any."""
    positions, values = unpack_points(points)
    rows = None
    if features:
        rows = np.frombuffer(features, "<f4").astype(np.float32).reshape(len(positions), -1)
    return ChunkScores(positions, values, features=rows)
