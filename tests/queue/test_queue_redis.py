"""What only a server can do wrong: lose data, forget scripts, mix runs, go away."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from queue_helpers import chunk_scores, fill, until

from rhoselect.config import Config, DataConfig
from rhoselect.errors import FencedError, WaitError
from rhoselect.queue.redis import RedisQueue, link
from rhoselect.runtime.queue_server import EmbeddedServer
from rhoselect.trainer.checkpoint import Checkpoint, Progress, Staged
from rhoselect.trainer.records import Records
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.types import QueueStats, Ticket
from servers import free_port, tcp_server

SHORTLIST = np.array([5, 1, 2**64 - 1, 4], np.uint64)
CHUNKS = [chunk_scores({1: 0.5, 2: 2.5}, rejected=[3]), chunk_scores({5: 1.5})]
New = Callable[..., RedisQueue]


@pytest.fixture
def new(server_url: str, admin: redis.Redis) -> Iterator[New]:
    made: list[RedisQueue] = []

    def make(run_id: str = "run", generation: int = 1, timeout_s: float = 20.0) -> RedisQueue:
        made.append(RedisQueue(server_url, run_id, generation, 60.0, 600.0, timeout_s))
        return made[-1]

    yield make
    for queue in made:
        queue.disconnect()


def test_a_flush_in_mid_window_costs_time_only(new: New, admin: redis.Redis) -> None:
    queue = new()
    fill(queue, 0, 0, CHUNKS)
    undisturbed = queue.pop(0, 2, 0.0)
    queue.close(0)
    queue.open(1, 1, 2)
    ticket = queue.claim(0, 0.0)
    assert ticket is not None and queue.push(ticket, CHUNKS[0])
    held = queue.claim(0, 0.0)
    assert held is not None
    admin.flushall()
    assert not queue.push(held, CHUNKS[1])
    assert queue.pop(1, 2, 0.0) is None
    queue.open(1, 1, 2)
    for chunk in range(2):
        assert queue.claim(0, 0.0) == Ticket(1, chunk, 1)
        assert queue.push(Ticket(1, chunk, 1), CHUNKS[chunk])
    again = queue.pop(1, 2, 0.0)
    assert undisturbed is not None and again is not None
    assert again.positions.tolist() == undisturbed.positions.tolist() == [2, 5]
    assert again.scores.tolist() == undisturbed.scores.tolist()


def test_open_makes_up_for_keys_that_were_lost(new: New, admin: redis.Redis) -> None:
    queue = new()
    queue.open(0, 0, 2)
    assert queue.claim(0, 0.0) is not None
    names = [key for key in admin.scan_iter() if key.endswith((b":todo", b":leases"))]
    assert len(names) == 2
    admin.delete(*names)
    assert queue.claim(0, 0.0) is None
    queue.open(0, 0, 2)
    assert [queue.claim(0, 0.0) for _ in range(2)] == [Ticket(0, 0, 0), Ticket(0, 1, 0)]


def test_scripts_are_loaded_again(new: New, admin: redis.Redis) -> None:
    queue = new()
    steps: list[Callable[[], object]] = [
        lambda: queue.open(0, 0, 1),
        lambda: queue.claim(0, 0.0),
        lambda: queue.reap(0),
        lambda: queue.push(Ticket(0, 0, 0), CHUNKS[0]),
        lambda: queue.pop(0, 1, 0.0),
        lambda: queue.close(0),
    ]
    for step in steps:
        admin.script_flush()
        step()
    assert queue.stats() == QueueStats(0, 0, 0, 0, None, 1, 0, 0, 1, 1)


def test_runs_do_not_see_each_other(new: New, admin: redis.Redis) -> None:
    queues = [new("a", 1), new("a:1", 1), new("b", 1), new("a:1:", 2)]
    for number, queue in enumerate(queues):
        fill(queue, number, number, [chunk_scores({number: float(number)})])
        queue.open(10 + number, number, 1)
    for number, queue in enumerate(queues):
        assert queue.stats().windows == 2
        popped = queue.pop(number, 9, 0.0)
        assert popped is not None and popped.positions.tolist() == [number]
        assert queue.claim(0, 0.0) == Ticket(10 + number, 0, number)
    queues[0].close(100)
    queues[1].destroy()
    assert [queue.stats().windows for queue in queues] == [0, 0, 2, 2]
    left = {bytes(key).split(b"}")[0] for key in admin.scan_iter()}
    assert left == {b"rho:{a", b"rho:{b", b"rho:{a:1:"}


def test_a_newer_generation_begins_anew_and_fences_the_older(new: New, admin: redis.Redis) -> None:
    """With the calls that a step makes anyway, also one that waits meanwhile."""
    old, newer = new(generation=1), new(generation=2)
    fill(old, 0, 0, CHUNKS)
    old.open(1, 1, 1)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(old.pop, 1, 1, 20.0)
        newer.open(0, 0, 1)
        with pytest.raises(FencedError, match="a newer trainer owns this run"):
            waiting.result()
    calls: list[Callable[[], object]] = [
        lambda: old.open(1, 1, 1),
        lambda: old.open_shortlist(0, 1, SHORTLIST, 2),
        lambda: old.pop(0, 1, 0.0),
        lambda: old.pop(0, 1, 0.0, shortlist=True),
        old.check_fence,
    ]
    for call in calls:
        with pytest.raises(FencedError):
            call()
    old.close(5)
    old.destroy()
    assert newer.claim(0, 0.0) == Ticket(0, 0, 0)
    assert newer.stats().windows == 1
    newer.check_fence()
    with pytest.raises(FencedError):
        old.check_fence()


def test_the_queue_fences_a_trainer_whose_folder_does_not_show_its_successor_yet(
    new: New, tmp_path: Path
) -> None:
    """As on a network file system, which remembers for a while that a file was not there."""
    folder = RunFolder.create(tmp_path / "run", Config(data=DataConfig(path="data")))
    folder = replace(folder, queue=new(generation=folder.generation))
    records = Records(folder, 0)
    new(generation=folder.generation + 1).open(0, 0, 1)
    for write in (
        lambda: Staged(Checkpoint(Progress(1), {}, {}, [])).write(folder, keep=1),
        lambda: records.add_values(
            1, 1.0, {"accuracy": 0.5, "loss": 1.0, "worst_class_accuracy": 0.5}
        ),
        lambda: records.finish({}),
    ):
        with pytest.raises(FencedError):
            write()
    names = {path.name for path in folder.path.rglob("*") if path.is_file()}
    assert names == {"config.toml", "kind", "run_id", "inputs_sha256", "eval.jsonl", "1"}
    assert (folder.path / "eval.jsonl").read_text() == ""


def test_a_trainer_can_fence_older_ones_before_it_opens_a_window(new: New) -> None:
    old, newer = new(generation=9), new(generation=10)
    old.check_fence()
    newer.check_fence()
    newer.check_fence()
    with pytest.raises(FencedError):
        old.open(0, 0, 1)


def test_a_server_that_lost_its_data_fences_nobody(new: New, admin: redis.Redis) -> None:
    old, newer = new(generation=1), new(generation=2)
    newer.check_fence()
    admin.flushall()
    old.open(0, 0, 1)
    old.check_fence()
    newer.open(0, 0, 1)  # it announces itself again
    with pytest.raises(FencedError):
        old.open(1, 0, 1)


def test_a_server_that_is_away_fences_nobody(tmp_path: Path) -> None:
    port = free_port()
    with tcp_server(tmp_path, port) as url:
        queue = RedisQueue(url, "run", 1, 60.0, 600.0, 20.0)
        queue.check_fence()
    queue.check_fence()
    queue.disconnect()


def test_every_key_expires_and_every_open_renews(new: New, admin: redis.Redis) -> None:
    queue = new()
    featured = chunk_scores({1: 1.0}, rejected=[2], features=[[1.0]])
    queue.open(0, 0, 3)
    queue.claim(0, 0.0)
    queue.push(Ticket(0, 0, 0), featured)
    queue.close(0)
    fill(queue, 1, 1, [featured])
    queue.open_shortlist(1, 2, SHORTLIST, 1)
    queue.claim(0, 0.0)
    queue.push(Ticket(1, 0, 2, SHORTLIST[:1]), featured)
    queue.claim(0, 0.0)
    keys = list(admin.scan_iter())
    assert len(keys) == 9 + 3 + 3, keys  # those of the run, and of both stages of window 1
    assert all(0 < admin.pttl(key) <= 600_000 for key in keys)
    for key in keys:
        admin.pexpire(key, 100_000)
    queue.open(1, 1, 1)
    queue.open_shortlist(1, 2, SHORTLIST, 1)
    assert all(admin.pttl(key) > 100_000 for key in keys)
    while queue.claim(7, 0.0) is not None:
        pass
    assert queue.reap(7) == 2  # makes the key of waiting tickets anew
    assert all(admin.pttl(key) > 0 for key in admin.scan_iter())


def test_keys_stay_bounded_and_destroy_leaves_none(new: New, admin: redis.Redis) -> None:
    queue = new()
    most = 0
    for window in range(200):
        fill(queue, window, window, CHUNKS)
        queue.open_shortlist(window, window, SHORTLIST, 3)
        queue.claim(0, 0.0)
        queue.pop(window, 1, 0.0)
        most = max(most, admin.dbsize())
        queue.close(window)
    assert most <= 9 + 3 + 3
    for window in (500, 501):
        fill(queue, window, 0, CHUNKS)
        queue.open_shortlist(window, 0, SHORTLIST, 3)
    queue.destroy()
    assert admin.dbsize() == 0


def test_closing_windows_that_were_skipped_drops_their_keys(new: New, admin: redis.Redis) -> None:
    queue = new()
    for window in range(3):
        fill(queue, window, window, CHUNKS)
    queue.close(5)
    assert not [key for key in admin.scan_iter() if b":stage:" in key]


def test_bells_hold_one_entry(new: New, admin: redis.Redis) -> None:
    queue = new()
    for window in range(5):
        fill(queue, window, window, CHUNKS)
        queue.open(10, 0, 1)
        queue.claim(0, 0.0)
        queue.reap(0)
    bells = [key for key in admin.scan_iter() if admin.type(key) == b"stream"]
    assert sorted(map(admin.xlen, bells)) == [1, 1]


def test_a_flush_starts_a_shortlist_over(new: New, admin: redis.Redis) -> None:
    queue = new()
    queue.open_shortlist(0, 3, SHORTLIST, 3)
    ticket = queue.claim(0, 0.0)
    assert ticket is not None and queue.push(ticket, CHUNKS[0])
    held = queue.claim(0, 0.0)
    admin.flushall()
    assert held is not None and not queue.push(held, CHUNKS[1])
    queue.open_shortlist(0, 3, SHORTLIST, 3)
    for positions, scores in zip((SHORTLIST[:3], SHORTLIST[3:]), CHUNKS, strict=True):
        again = queue.claim(0, 0.0)
        assert again is not None and again.positions is not None
        assert again.positions.tolist() == positions.tolist()
        assert queue.push(again, scores)
    assert queue.pop(0, 9, 0.0, shortlist=True) is not None


def test_a_shortlist_ticket_without_its_positions_is_not_handed_out(
    new: New, admin: redis.Redis
) -> None:
    queue = new()
    queue.open_shortlist(0, 3, SHORTLIST, 3)
    admin.delete(*admin.keys("*:shortlists"))
    assert [queue.claim(0, 0.0) for _ in range(2)] == [None, None]
    queue.open_shortlist(0, 3, SHORTLIST, 3)
    again = [queue.claim(0, 0.0) for _ in range(2)]
    assert all(ticket is not None and ticket.positions is not None for ticket in again)


def blocked(admin: redis.Redis, count: int) -> Callable[[], bool]:
    return lambda: admin.info("clients")["blocked_clients"] == count


def test_bells_wake_everyone_who_waits(
    new: New, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "SLICE_S", 60.0)  # no one looks again by itself
    queue = new(timeout_s=200.0)
    with ThreadPoolExecutor(8) as pool:
        # Of three lanes, with weights that only worker 4 has: 1 and 2 wait for chunks of theirs.
        claims = [pool.submit(queue.claim, w, 90.0, 3, 7 if w == 4 else 0) for w in (1, 2, 4)]
        pops = [pool.submit(queue.pop, 0, 9, 90.0, again) for again in (False, True)]
        until(blocked(admin, 5), "all five wait")
        queue.open(0, 7, 1)
        until(lambda: claims[2].done(), "the one that may help has the first ticket")
        until(blocked(admin, 4), "the others wait again")
        queue.open_shortlist(0, 8, SHORTLIST, 1)
        until(lambda: all(claim.done() for claim in claims), "everyone has a ticket")
        assert [claim.result().chunk for claim in claims] == [1, 2, 0]
        queue.push(Ticket(0, 0, 7), chunk_scores({1: 1.0}))
        until(lambda: pops[0].done(), "the candidates are popped")
        for chunk in range(4):
            queue.push(Ticket(0, chunk, 8, SHORTLIST), chunk_scores({chunk: 1.0}))
        until(lambda: pops[1].done(), "the shortlist is popped")
        queue.open(1, 8, 1)
        assert queue.claim(5, 0.0) == Ticket(1, 0, 8)
        waits = [pool.submit(queue.claim, worker, 90.0) for worker in range(2)]
        until(blocked(admin, 2), "two wait")
        assert queue.reap(5) == 1
        until(lambda: any(wait.done() for wait in waits), "one has the ticket taken back")
        queue.open(2, 8, 1)
        until(lambda: all(wait.done() for wait in waits), "the other has one, too")
        assert all(pop.result() is not None for pop in pops)


def test_a_dropped_connection_is_made_again(new: New, admin: redis.Redis) -> None:
    queue = new()
    queue.open(0, 0, 1)
    admin.client_kill_filter(_type="normal", skipme=True)
    assert queue.claim(0, 0.0) == Ticket(0, 0, 0)


def test_a_server_that_comes_back_is_used_again(tmp_path: Path) -> None:
    port = free_port()
    with tcp_server(tmp_path, port) as url:
        queue = RedisQueue(url, "run", 1, 60.0, 600.0, 30.0)
        queue.open(0, 0, 1)
    with ThreadPoolExecutor(1) as pool:
        reopened = pool.submit(queue.open, 0, 0, 1)
        with tcp_server(tmp_path, port):
            reopened.result(30.0)
            assert queue.claim(0, 0.0) == Ticket(0, 0, 0)
            queue.disconnect()


@pytest.mark.parametrize("call", ["claim", "pop", "stats"])
def test_a_server_lost_in_mid_run_is_named_without_its_password(tmp_path: Path, call: str) -> None:
    port = free_port()
    with tcp_server(tmp_path, port) as url:
        queue = RedisQueue(url, "run", 1, 60.0, 600.0, 0.1)
        queue.open(0, 0, 1)
    args = {"claim": (0, 5.0), "pop": (0, 1, 5.0), "stats": ()}[call]
    with pytest.raises(WaitError) as caught:
        getattr(queue, call)(*args)
    queue.disconnect()
    message = str(caught.value)
    assert f"127.0.0.1:{port}" in message and "s3cret" not in message and "\n" not in message


def test_a_silent_server_is_lost(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "log") as server:
        queue = RedisQueue(server.url, "run", 1, 60.0, 600.0, 0.1)
        queue.open(0, 0, 1)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(WaitError, match=r"lost for 0\.1 s"):
                queue.stats()
        finally:
            os.kill(server.pid, signal.SIGCONT)
        queue.disconnect()


def fill_up(admin: redis.Redis, folder: Path) -> None:
    admin.config_set("maxmemory", "1")


def empty(admin: redis.Redis) -> None:
    admin.config_set("maxmemory", "0")


def lose_disk(admin: redis.Redis, folder: Path) -> None:
    """The server cannot save any more, and refuses to write until it can."""
    admin.config_set("save", "3600 1")
    shutil.rmtree(folder)
    admin.bgsave()
    until(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err", "it cannot save")


def save_no_more(admin: redis.Redis) -> None:
    admin.config_set("save", "")


@pytest.mark.parametrize(
    ("code", "fault", "mend"),
    [("OOM", fill_up, empty), ("MISCONF", lose_disk, save_no_more)],
)
def test_a_push_waits_while_the_server_refuses_to_write(
    tmp_path: Path,
    code: str,
    fault: Callable[[redis.Redis, Path], None],
    mend: Callable[[redis.Redis], None],
) -> None:
    (folder := tmp_path / "server").mkdir()
    with tcp_server(folder, free_port()) as url, redis.Redis.from_url(url) as admin:
        queue = RedisQueue(url, "run", 1, 60.0, 600.0, 60.0)
        queue.open(0, 0, 1)
        fault(admin, folder)
        with ThreadPoolExecutor(1) as pool:
            push = pool.submit(queue.push, Ticket(0, 0, 0), CHUNKS[0])
            until(lambda: f"errorstat_{code}" in admin.info("errorstats"), "it was refused")
            assert queue.stats() == QueueStats(1, 1, 0, 0, 0)
            mend(admin)
            assert push.result(60.0)
        popped = queue.pop(0, 9, 0.0)
        assert popped is not None and popped.positions.tolist() == [2, 1]
        queue.disconnect()


def test_a_server_that_stays_full_says_so_takes_no_half_push_and_can_be_emptied(
    tmp_path: Path,
) -> None:
    with EmbeddedServer(tmp_path / "log") as server, redis.Redis.from_url(server.url) as admin:
        queue = RedisQueue(server.url, "run", 1, 60.0, 600.0, 0.1)
        queue.open(0, 0, 1)
        admin.config_set("maxmemory", "1")
        with pytest.raises(WaitError, match=r"full for 0\.1 s .*maxmemory.* --resume"):
            queue.push(Ticket(0, 0, 0), CHUNKS[0])
        assert queue.stats() == QueueStats(1, 1, 0, 0, 0)
        queue.close(0)
        assert queue.stats() == QueueStats(0, 0, 0, 0, None)
        queue.disconnect()
