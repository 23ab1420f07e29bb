"""The queue on a Redis-protocol server (Redis >= 6.2, Valkey >= 8): one atomic script a call.

A window is a sorted set. Its members are the positions' complements (2**64 - 1 - position) as 8
big-endian bytes: read backwards, the set is ordered by score descending and, where scores tie, by
member descending, which is position ascending. Scores travel as ``repr`` strings, which both Redis
and Python read back to the same 64 bits; Lua never turns one into a number.

Waits block on a list of tokens (``bell`` for tickets, ``ready`` for a complete window), then ask
the script again. A token only wakes: whoever waits also looks for itself every `SLICE_S`, so a
token lost with a dying client costs time only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from rhoselect.queue.redis.keys import Keys
from rhoselect.queue.redis.server import connect, patiently, server_name
from rhoselect.types import ChunkScores, Popped, Positions, QueueStats, Ticket

SLICE_S = 1.0
MAX_TOKENS = 1024
_SCRIPTS = ("open", "claim", "push", "pop", "close", "reap")
_ALL_ONES = np.uint64(2**64 - 1)
_T = TypeVar("_T")


def members(positions: Positions) -> list[bytes]:
    """The sorted-set members of ``positions`` [C]."""
    packed = (_ALL_ONES - positions).astype(">u8").tobytes()
    return [packed[i : i + 8] for i in range(0, len(packed), 8)]


def positions_of(packed: Sequence[bytes]) -> Positions:
    """The positions [C] of sorted-set members; inverse of `members`."""
    return _ALL_ONES - np.frombuffer(b"".join(packed), ">u8").astype(np.uint64)


class RedisQueue:
    """A `SelectionQueue` on the server at ``url``, for one run and one trainer generation.

    ``lease_s`` seconds after its claim a ticket may be reaped. Keys untouched for ``expiry_s``
    vanish (the trainer's repeated `open` makes up for it). A server that is silent or away for
    ``timeout_s`` is lost: any call then raises WaitError, which names the server.
    """

    def __init__(
        self,
        url: str,
        run_id: str,
        generation: int,
        lease_s: float,
        expiry_s: float,
        timeout_s: float,
    ) -> None:
        self._name = server_name(url)
        self._client = connect(url, timeout_s)
        self._keys = Keys(run_id, generation)
        self._lease_ms = max(1, round(lease_s * 1000))
        self._expiry_ms = max(1, round(expiry_s * 1000))
        self._timeout_s = timeout_s
        # A blocked read must return before the socket gives the server up.
        self._slice_s = min(SLICE_S, timeout_s / 2)
        folder = resources.files("rhoselect.queue.redis") / "scripts"
        sources = {name: (folder / f"{name}.lua").read_text("utf-8") for name in _SCRIPTS}
        self._scripts = {n: self._client.register_script(text) for n, text in sources.items()}

    def open(self, window: int, version: int, chunks: int) -> None:
        """See `SelectionQueue.open`."""
        k = self._keys
        keys = [k.closed, k.windows, k.todo, k.leases, k.bell, *k.window(window).all()]
        self._run("open", keys, [window, version, chunks, self._expiry_ms, MAX_TOKENS])

    def claim(self, worker: int, timeout_s: float) -> Ticket | None:
        """See `SelectionQueue.claim`."""
        k = self._keys
        keys = [k.todo, k.leases, k.owners, k.bell]
        args = [worker, self._lease_ms, self._expiry_ms]
        found = self._wait(lambda: self._run("claim", keys, args), k.bell, timeout_s)
        return None if found is None else Ticket(*map(int, found.split(b":")))

    def push(self, ticket: Ticket, scores: ChunkScores) -> bool:
        """See `SelectionQueue.push`."""
        k = self._keys
        keys = [k.windows, k.todo, k.leases, k.owners, k.counters, *k.window(ticket.window).all()]
        points = members(scores.positions)
        values = (scores.scores + 0.0).tolist()  # no -0.0: Redis may keep it as 0
        features = scores.features
        rows = [] if features is None else [row.tobytes() for row in features.astype("<f4")]
        args = [
            ticket.window,
            ticket.chunk,
            ticket.version,
            f"{ticket.window}:{ticket.chunk:010d}:{ticket.version}",
            self._expiry_ms,
            len(points),
            len(scores.rejected),
            *chain.from_iterable(zip(map(repr, values), points, strict=True)),
            *map(int, scores.rejected),
            *chain.from_iterable(zip(points, rows, strict=False)),
        ]
        return bool(self._run("push", keys, args))

    def pop(self, window: int, k: int, timeout_s: float) -> Popped | None:
        """See `SelectionQueue.pop`."""
        here = self._keys.window(window)
        keys = [self._keys.windows, *here.all()]
        args = [window, k, self._expiry_ms]
        found = self._wait(lambda: self._run("pop", keys, args), here.ready, timeout_s)
        if found is None:
            return None
        version, best, rows = found
        features = np.frombuffer(b"".join(rows), "<f4").astype(np.float32) if rows else None
        return Popped(
            window,
            int(version),
            positions_of(best[::2]),
            np.array([float(score) for score in best[1::2]], np.float64),
            None if features is None else features.reshape(len(rows), -1),
        )

    def rejected(self, window: int) -> list[int]:
        """See `SelectionQueue.rejected`."""
        key = self._keys.window(window).rejected
        return sorted(map(int, self._patiently(lambda: self._client.smembers(key))))

    def close(self, window: int) -> None:
        """See `SelectionQueue.close`."""
        k = self._keys
        below = {number for number in self._open_windows() if number <= window}
        for number in sorted(below | {window}):
            keys = [k.closed, k.windows, k.todo, k.leases, k.owners, *k.window(number).all()]
            self._run("close", keys, [number, self._expiry_ms])

    def reap(self, worker: int | None = None) -> int:
        """See `SelectionQueue.reap`."""
        k = self._keys
        keys = [k.todo, k.leases, k.owners, k.bell, k.counters]
        slot = "" if worker is None else worker
        return int(self._run("reap", keys, [slot, self._expiry_ms, MAX_TOKENS]))

    def stats(self) -> QueueStats:
        """See `SelectionQueue.stats`."""
        k = self._keys
        windows = self._open_windows()

        def look() -> list[Any]:
            with self._client.pipeline(transaction=False) as pipe:
                pipe.zcard(k.todo)
                pipe.zcard(k.leases)
                pipe.hgetall(k.counters)
                for window in windows:
                    pipe.zcard(k.window(window).scores)
                return pipe.execute()

        waiting, leased, counters, *points = self._patiently(look)
        return QueueStats(
            windows=len(windows),
            waiting=waiting,
            leased=leased,
            points=sum(points),
            oldest_version=min(windows.values(), default=None),
            **{name.decode(): int(count) for name, count in counters.items()},
        )

    def destroy(self) -> None:
        """See `SelectionQueue.destroy`."""
        names = [self._keys.window(window).all() for window in self._open_windows()]
        keys = [*self._keys.run(), *chain.from_iterable(names)]
        self._patiently(lambda: self._client.unlink(*keys))

    def disconnect(self) -> None:
        """Close this process's connections; the queue itself stays."""
        self._client.close()

    def _open_windows(self) -> dict[int, int]:
        """Open window -> version."""
        entries = self._patiently(lambda: self._client.hgetall(self._keys.windows))
        return {int(window): int(entry.split()[0]) for window, entry in entries.items()}

    def _wait(self, look: Callable[[], _T | None], tokens: str, timeout_s: float) -> _T | None:
        """The first result of ``look()`` that is not None; looks again at every token."""
        deadline = time.monotonic() + timeout_s
        while (result := look()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            # Old servers round to milliseconds, and 0 would mean forever.
            self._block(tokens, max(0.005, min(left, self._slice_s)))
        return result

    def _block(self, tokens: str, seconds: float) -> None:
        self._patiently(lambda: self._client.blpop([tokens], seconds))

    def _run(self, script: str, keys: list[str], args: Iterable[Any]) -> Any:
        """Run a script by its hash; loaded again where the server has lost it."""
        return self._patiently(lambda: self._scripts[script](keys=keys, args=args))

    def _patiently(self, call: Callable[[], _T]) -> _T:
        return patiently(call, self._name, self._timeout_s)
