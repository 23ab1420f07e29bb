"""What only a server can do to a rolling queue: lose it, and forget to wake who waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from queue_helpers import chunk_scores, until

from rhoselect.queue import StreamBounds
from rhoselect.queue.redis import RedisStream, link
from rhoselect.types import Ticket


@pytest.fixture
def stream(
    server_url: str, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RedisStream]:
    monkeypatch.setattr(link, "SLICE_S", 60.0)  # no one looks again by itself
    made = RedisStream(server_url, "run", 1, StreamBounds(2, 50, 2, 3), 600.0, 200.0)
    yield made
    made.disconnect()


def blocked(admin: redis.Redis, count: int) -> Callable[[], bool]:
    return lambda: admin.info("clients")["blocked_clients"] == count


def test_bells_wake_everyone_who_waits(stream: RedisStream, admin: redis.Redis) -> None:
    with ThreadPoolExecutor(5) as pool:
        takes = [pool.submit(stream.take, k, 90.0) for k in (4, 2)]
        claims = [pool.submit(stream.claim, worker, 90.0) for worker in range(3)]
        until(blocked(admin, 5), "all five wait")
        stream.advance(0)
        until(lambda: all(claim.done() for claim in claims), "three tickets are claimed")
        until(blocked(admin, 2), "the takers wait again")
        for position in range(2):
            stream.push(Ticket(0, 0, 0), chunk_scores({position: 1.0}))
        until(lambda: takes[1].done(), "the one that wants two has them")
        until(blocked(admin, 1), "the other one waits again")
        for position in range(4):
            stream.push(Ticket(0, 0, 0), chunk_scores({position: 1.0}))
        until(lambda: takes[0].done(), "the other one has its four")


def test_a_flush_under_those_who_wait_costs_time_only(
    stream: RedisStream, admin: redis.Redis
) -> None:
    stream.advance(0)
    while stream.claim(0, 0.0) is not None:
        pass
    with ThreadPoolExecutor(2) as pool:
        take = pool.submit(stream.take, 1, 90.0)
        claim = pool.submit(stream.claim, 0, 90.0)
        until(blocked(admin, 2), "both wait")
        admin.flushall()
        stream.advance(3)  # as the waiting trainer does
        until(claim.done, "the scorer goes on")
        assert claim.result() == Ticket(3, 0, -1)
        until(blocked(admin, 1), "the taker waits again")
        assert stream.push(Ticket(3, 0, 3), chunk_scores({7: 1.0}))
        until(take.done, "the taker goes on")


def test_every_key_expires_and_advance_renews(stream: RedisStream, admin: redis.Redis) -> None:
    stream.advance(0)
    stream.claim(0, 0.0)
    assert stream.take(9, 0.0) is None
    stream.push(Ticket(0, 0, 0), chunk_scores(dict.fromkeys(range(9), 1.0), rejected=[10]))
    keys = list(admin.scan_iter())
    assert len(keys) == 6 and all(0 < admin.pttl(key) <= 600_000 for key in keys)
    for key in keys:
        admin.pexpire(key, 100_000)
    stream.advance(0)
    assert all(admin.pttl(key) > 100_000 for key in keys)
    assert stream.take(9, 0.0) is not None
    stream.push(Ticket(0, 1, 0), chunk_scores({11: 1.0}))
    assert all(admin.pttl(key) > 0 for key in admin.scan_iter())
    stream.destroy()
    assert admin.dbsize() == 0


def test_a_late_push_after_a_flush_leaves_nothing_for_ever(
    stream: RedisStream, admin: redis.Redis
) -> None:
    assert not stream.push(Ticket(0, 0, 0), chunk_scores({1: 1.0}))
    assert [admin.pttl(key) > 0 for key in admin.scan_iter()] == [True]


def test_scripts_are_loaded_again(stream: RedisStream, admin: redis.Redis) -> None:
    steps: list[Callable[[], object]] = [
        lambda: stream.advance(0),
        lambda: stream.claim(0, 0.0),
        lambda: stream.push(Ticket(0, 0, 0), chunk_scores({1: 1.0})),
        lambda: stream.take(1, 0.0),
    ]
    for step in steps:
        admin.script_flush()
        step()
    assert stream.stats().accepted == 1
