"""The followers of a run, as their lead sees them: it gives them orders, and learns of the end of
one by whatever cause. They do not outlive it: a follower whose lead is gone ends."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from rhoselect.config import Config
from rhoselect.errors import LostRankError, RunError, listed
from rhoselect.ranks.gloo import Meeting
from rhoselect.ranks.group import Work
from rhoselect.runtime.links import ALIVE_S, Kind, LeadEnd
from rhoselect.trainer.resuming import how_to_resume
from rhoselect.trainer.runfolder import RunFolder

Mode = Literal["colocated", "split"]
"""See ``leading``."""
GRACE_S = 5.0  # for all to tell what they miss, before one is said to be silent
END_S = 10.0  # for a follower to end by itself


class RankProcess(Protocol):
    """The process of a follower, on this machine or another. As a string: which one."""

    def kill(self) -> None:
        """End it at once, if it lives."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end for at most ``timeout_s``. Returns whether it has ended."""
        ...

    def how(self) -> str:
        """How it ended, after "rank 1"."""
        ...


@dataclass
class Follower:
    """One of them. ``word`` and ``text`` are the last that it said of its end; ``killed``: by this
    process, because another one had ended."""

    rank: int
    process: RankProcess
    end: LeadEnd
    log: Path
    ready: bool = False
    begun: bool = False
    word: str = ""
    text: str = ""
    ended: bool = False
    killed: bool = False

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.process})"

    @property
    def is_cause(self) -> bool:
        """Whether it ended by itself, and not because it lost another rank."""
        return self.ended and self.word != "lost" and not self.killed

    @property
    def cause(self) -> str:
        """How it ended."""
        if self.word:
            return f"{self}: {self.text}"
        return f"{self} {self.process.how()}; see {self.log}"


def follower(rank: int, process: RankProcess, link: socket.socket, folder: RunFolder) -> Follower:
    """The follower at the other end of ``link``, in a run's generation."""
    return Follower(rank, process, LeadEnd(link, folder.generation), log_of(folder.path, rank))


def log_of(path: Path, rank: int) -> Path:
    """The log of a follower in a run folder."""
    return path / "logs" / f"rank-{rank}.log"


def in_mode(config: Config, mode: Mode) -> Config:
    """The configuration of a process of a run whose cluster.mode = "auto" stands for ``mode``."""
    cluster = config.cluster.model_copy(update={"mode": mode})
    return config.model_copy(update={"cluster": cluster})


Started = AbstractContextManager[tuple[Path | Meeting, Sequence[Follower]]]
"""Followers, started, and where the group meets; entered once."""


class Crew:
    """The followers of a run. ``asked`` is the one that got a SIGTERM, if any: it is to stop."""

    def __init__(self, config: Config, folder: RunFolder, followers: Sequence[Follower]) -> None:
        self._folder, self._cluster = folder, config.cluster
        self._followers = followers
        self.asked: Follower | None = None
        self._changed = threading.Condition()
        self._went = self._closing = False
        self._watcher = threading.Thread(target=self._watch, name="crew", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        with selectors.DefaultSelector() as links:
            for each in self._followers:
                links.register(each.end.link, selectors.EVENT_READ, each)
            while not self._closing:
                for key, _ in links.select(ALIVE_S):
                    if not self._hear(key.data):
                        links.unregister(key.fileobj)
                self._order(Kind.ALIVE)

    def _hear(self, follower: Follower) -> bool:
        """Take what a follower said. Returns False at its end."""
        said = follower.end.heard()
        with self._changed:
            for word, text in said or []:
                if word in ("ready", "begun"):
                    follower.ready, follower.begun = True, word == "begun"
                elif word == "stop":
                    self.asked = self.asked or follower
                else:
                    follower.word, follower.text = word, text
            follower.ended = said is None
            if follower.is_cause and not self._closing:
                self._kill()  # else ranks that wait for each other, not for it, would wait long
            self._changed.notify_all()
        return not follower.ended

    def _kill(self) -> None:
        for each in self._followers:
            if not each.ended:
                each.killed = True
                each.process.kill()

    def _order(self, kind: Kind, step: int = 0) -> None:
        for each in self._followers:
            each.end.order(kind, step)

    def gather(self) -> None:
        """Wait until all are ready, and have them join the group. Raises RunError."""
        self._wait(lambda each: each.ready)
        self._order(Kind.JOIN)

    def begin(self, step: int) -> None:
        """Have all load the checkpoint of a step, and do with this process what it does then."""
        self._order(Kind.BEGIN, step)

    def share(self, workers: int) -> None:
        """Tell all that there are so many scorers from now on."""
        self._order(Kind.SHARE, workers)

    def call(self, work: Work, step: int) -> None:
        """Have all take part in ``work``. Raises LostRankError if one has ended."""
        self.check()
        self._order(Kind[work.upper()], step)

    def go(self, step: int) -> None:
        """Have all take a step; before the first one wait until they have begun. Raises
        LostRankError if one has ended."""
        self.check()
        if not self._went:
            self._went = True
            self._wait(lambda each: each.begun)
        self._order(Kind.STEP, step)

    def _wait(self, come: Callable[[Follower], bool]) -> None:
        start_s = self._cluster.start_s
        with self._changed:
            in_time = self._changed.wait_for(
                lambda: any(e.ended for e in self._followers) or all(map(come, self._followers)),
                start_s,
            )
        self.check()
        if not in_time:
            late = [each for each in self._followers if not come(each)]
            raise RunError(
                f"{listed(late)}: not ready after {start_s:g} s (cluster.start_s); raise it, or see"
                f" {late[0].log}"
            )

    def check(self) -> None:
        """Raise LostRankError if one has ended."""
        for each in self._followers:
            if each.ended:
                raise LostRankError(f"{each} ended: {each.text}")

    def explained(self, error: LostRankError) -> RunError:
        """The error to tell when this process lost a rank: which one it was, and why."""

        def all_said() -> bool:
            causes = any(each.is_cause for each in self._followers)
            return causes or all(each.ended or each.word for each in self._followers)

        with self._changed:
            self._changed.wait_for(all_said, GRACE_S)
            cause = next((each.cause for each in self._followers if each.is_cause), "")
            silent = [each for each in self._followers if not each.ended and not each.word]
        what = cause or str(error)
        if silent and not cause:
            timeout_s = self._cluster.rank_timeout_s
            what = (
                f"{listed(silent)} did not answer for {timeout_s:g} s; if a step takes so long"
                " there, raise cluster.rank_timeout_s"
            )
        return RunError(f"{what}; continue with: {how_to_resume(self._folder.path)}")

    def close(self, end_s: float) -> None:
        """Have all end within ``end_s``, then kill those that have not."""
        self._closing = True
        self._order(Kind.END)
        self._watcher.join()
        self._await(end_s)
        for each in self._followers:
            each.process.kill()
        self._await(GRACE_S)
        for each in self._followers:
            each.end.link.close()

    def _await(self, end_s: float) -> None:
        deadline = time.monotonic() + end_s
        for each in self._followers:
            each.process.wait(max(0.0, deadline - time.monotonic()))


@contextmanager
def crew_of(config: Config, folder: RunFolder, followers: Sequence[Follower]) -> Iterator[Crew]:
    """The followers of a run for the block. Raises RunError, with the cause, for LostRankError."""
    crew, end_s = Crew(config, folder, followers), 0.0
    try:
        yield crew
        end_s = END_S
    except LostRankError as error:
        raise crew.explained(error) from None
    finally:
        crew.close(end_s)
