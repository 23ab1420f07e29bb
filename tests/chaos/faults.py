"""What can happen to a run: each fault does it, and returns how many processes it killed."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

import points
from driver import DEADLINE_S, ChaoticRun, Hang, Lost

SMALL_BYTES = 2048  # a checkpoint has more


def kill_scorers(run: ChaoticRun) -> int:
    """Any number of them at once."""
    pids = list(run.scorers().values())
    return run.kill(run.random.sample(pids, run.random.randint(min(1, len(pids)), len(pids))))


def freeze_scorer(run: ChaoticRun) -> int:
    """For longer than its lease, or not: to Ray it is alive all the while."""
    if pids := list(run.scorers().values()):
        run.freeze(run.random.choice(pids), run.random.uniform(0.5, 4.0))
    return 0


def kill_trainer(run: ChaoticRun) -> int:
    run.may_end = True
    return run.kill([run.trainer()])


def freeze_trainer(run: ChaoticRun) -> int:
    run.freeze(run.trainer(), run.random.uniform(0.5, 3.0))
    return 0


def kill_command(run: ChaoticRun) -> int:
    run.may_end = True
    pids = [run.trainer(), *run.scorers().values()]
    run.end_command()
    run.until_gone(pids)  # Ray's workers look only once a second whether they are orphans
    return 1


def die_at(point: str, run: ChaoticRun) -> int:
    return run.die_at(point)


def flush_server(run: ChaoticRun) -> int:
    run.server.flush()
    return 0


def freeze_server(run: ChaoticRun) -> int:
    run.server.freeze(run.random.uniform(0.5, 3.0))
    return 0


def restart_server(run: ChaoticRun) -> int:
    run.server.restart()
    return 1


def scale(run: ChaoticRun) -> int:
    """To another number of workers; from none at all to some again, too."""
    most = run.most_workers
    for workers in (run.random.randint(0, most), run.random.randint(1, most)):
        command = [sys.executable, "-m", "rhoselect.cli", "scale", str(run.path)]
        command += ["--workers", str(workers)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise Hang("scale does not end") from None
        if run.finished():
            break
        if done.returncode:
            raise Lost(f"scale: {done.stderr}")
        run.workers = workers
        run.until_moved()
        if workers:
            break
    return 0


def fill_disk(run: ChaoticRun) -> int:
    """The trainer can write no file of more than a few bytes any more."""
    run.may_end, mark = True, len(run.said())
    try:
        _, most = resource.prlimit(run.trainer(), resource.RLIMIT_FSIZE)
        resource.prlimit(run.trainer(), resource.RLIMIT_FSIZE, (SMALL_BYTES, most))
    except ProcessLookupError:  # it has just finished
        return 0
    run.ended(run.command)
    if not run.finished() and "cannot be written" not in run.said()[mark:]:
        raise Lost(f"full disk: {run.tail()}")
    return 0


def take_over(run: ChaoticRun) -> int:
    """A trainer freezes, another command goes on with its run, the old one wakes up: refused. As on
    a file system without locks: with the lock the other command is refused."""
    trainer, old, mark = run.trainer(), run.command, len(run.said())
    with run.frozen(trainer):
        (run.path / "lock").unlink()
        run.start(resume=True)
        run.until_moved()
    run.ended(old)
    if not run.finished() and "newer trainer" not in run.said()[mark:]:
        raise Lost(f"an old trainer was not refused: {run.tail()}")
    return 0


FAULTS: dict[str, tuple[float, Callable[[ChaoticRun], int]]] = {
    "scorers killed": (200, kill_scorers),
    "scorer frozen": (4, freeze_scorer),
    "trainer killed": (4, kill_trainer),
    "trainer frozen": (3, freeze_trainer),
    "command killed": (2, kill_command),
    **{f"killed {point}": (3, partial(die_at, point)) for point in points.POINTS},
    "queue flushed": (6, flush_server),
    "server frozen": (3, freeze_server),
    "server restarted empty": (6, restart_server),
    "workers added or removed": (3, scale),
    "disk full": (1, fill_disk),
    "taken over": (1, take_over),
}
"""How often, and what: scorers most of all, of which a cluster has many to a trainer."""


def endless(seed: int) -> Iterator[str]:
    """Kinds of faults, as often as their shares say."""
    chance = random.Random(seed)
    shares = [share for share, _ in FAULTS.values()]
    while True:
        yield chance.choices(list(FAULTS), shares)[0]
