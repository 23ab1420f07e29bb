"""The rolling queue on a Redis-protocol server: one atomic script a call.

Two sorted sets hold the same members: one is ordered by score, one by age. A member is a position's
complement and the version it was scored with, 8 big-endian bytes each.
"""

from __future__ import annotations

from typing import Any

from rhoselect.queue.base import StreamBounds
from rhoselect.queue.redis.keys import StreamKeys
from rhoselect.queue.redis.link import Args, Link
from rhoselect.queue.redis.packing import pack_aged_points, unpack_aged, unpack_scores
from rhoselect.types import ChunkScores, QueueStats, Stage, Ticket, TopK

_SCRIPTS = ("fence", "stream_advance", "stream_claim", "stream_push", "stream_take")


class RedisStream:
    """A `StreamQueue` on the server at ``url``, for one run and one trainer generation.

    Keys vanish ``expiry_s`` after the last `advance`, which makes them anew. A server that is
    silent or away for ``timeout_s`` is lost: any call then raises WaitError, which names it.
    """

    def __init__(
        self,
        url: str,
        run_id: str,
        generation: int,
        bounds: StreamBounds,
        expiry_s: float,
        timeout_s: float,
    ) -> None:
        self._link = Link(url, timeout_s, _SCRIPTS)
        self._keys = StreamKeys(run_id, generation)
        self._chunks, self._capacity = bounds.chunks, bounds.capacity
        self._ahead, self._max_age = bounds.ahead, bounds.max_age
        self._expiry_ms = max(1, round(expiry_s * 1000))

    def advance(self, step: int) -> None:
        """See `StreamQueue.advance`."""
        args = [step, self._chunks, step - self._max_age, self._expiry_ms]
        self._link.run("stream_advance", self._keys.all(), args)

    def claim(
        self,
        worker: int,
        timeout_s: float,
        lanes: int = 1,
        loaded: int | None = None,
        only: Stage | None = None,
    ) -> Ticket | None:
        """See `StreamQueue.claim`."""
        k = self._keys
        args = [self._chunks, self._ahead]
        found = self._link.wait("stream_claim", [k.progress, k.notify], args, k.notify, timeout_s)
        return None if found is None else Ticket(*divmod(int(found[0]), self._chunks), -1)

    def push(self, ticket: Ticket, scores: ChunkScores) -> bool:
        """See `StreamQueue.push`."""
        assert ticket.version >= 0, "the version that the scores were made with"
        k = self._keys
        keys = [k.progress, k.scores, k.ages, k.counters, k.ready]
        points = pack_aged_points(scores.positions, scores.scores, ticket.version)
        bounds = [self._max_age, self._capacity, self._expiry_ms]
        args: Args = [ticket.version, *bounds, len(scores.rejected), points]
        return bool(self._link.run("stream_push", keys, args))

    def take(self, k: int, timeout_s: float) -> TopK | None:
        """See `StreamQueue.take`."""
        assert k >= 1
        keys = [self._keys.progress, self._keys.scores, self._keys.ages, self._keys.ready]
        found = self._link.wait("stream_take", keys, [k], self._keys.ready, timeout_s)
        if found is None:
            return None
        positions, versions = unpack_aged(found[0])
        return TopK(-1, int(versions.min()), positions, unpack_scores(found[1]))

    def peek(self, k: int) -> TopK | None:
        """See `StreamQueue.peek`."""
        assert k >= 1
        members, scores = self._link.best(self._keys.scores, k)
        if not members:
            return None
        positions, versions = unpack_aged(members)
        return TopK(-1, int(versions.min()), positions, scores)

    def reap(self, worker: int | None = None) -> int:
        """See `StreamQueue.reap`."""
        return 0

    def stats(self) -> QueueStats:
        """See `StreamQueue.stats`."""
        k = self._keys

        def look() -> list[Any]:
            with self._link.client.pipeline(transaction=False) as pipe:
                pipe.hmget(k.progress, "step", "next")
                pipe.zcard(k.scores)
                pipe.zrange(k.ages, 0, 0, withscores=True)
                pipe.hgetall(k.counters)
                pipe.info("memory")
                return pipe.execute()

        (step, following), points, oldest, counters, memory = self._link.with_retries(look)
        waiting = 0
        if step is not None:
            waiting = max(0, (int(step) + self._ahead) * self._chunks - int(following))
        return QueueStats(
            windows=0,
            waiting=waiting,
            leased=0,
            points=points,
            oldest_version=int(oldest[0][1]) if oldest else None,
            server_bytes=memory["used_memory"],
            server_limit_bytes=memory["maxmemory"],
            **{name.decode(): int(count) for name, count in counters.items()},
        )

    def destroy(self) -> None:
        """See `StreamQueue.destroy`."""
        keys = [*self._keys.all(), *self._link.announced(self._keys)]
        self._link.with_retries(lambda: self._link.client.unlink(*keys))

    def check_fence(self) -> None:
        """Announce this generation. Raises FencedError if a newer one is there."""
        self._link.check_fence(self._keys, self._expiry_ms)

    def disconnect(self) -> None:
        """Close this process's connections; the queue itself stays."""
        self._link.close()
