"""Followers that are processes of their lead's machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rhoselect.config import Config
from rhoselect.devices import check_ranks
from rhoselect.runtime.crew import Follower, Mode, follower, log_of
from rhoselect.trainer.runfolder import RunFolder


@dataclass(frozen=True)
class LocalProcess:
    """A `RankProcess` that this process started."""

    started: subprocess.Popen[bytes]

    def __str__(self) -> str:
        return f"process {self.started.pid}"

    def kill(self) -> None:
        """See `RankProcess.kill`."""
        self.started.kill()

    def wait(self, timeout_s: float) -> bool:
        """See `RankProcess.wait`."""
        try:
            self.started.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def how(self) -> str:
        """See `RankProcess.how`."""
        code = self.started.wait()
        if code == -signal.SIGKILL:
            return "was killed (SIGKILL), by someone or for lack of memory"
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


@contextmanager
def followers_here(
    config: Config, folder: RunFolder, mode: Mode
) -> Iterator[tuple[Path, list[Follower]]]:
    """One for each of ``trainer.devices`` but the lead's. Raises ConfigError if there are fewer
    devices."""
    check_ranks(config)
    with tempfile.TemporaryDirectory(prefix="rhoselect-") as scratch:
        meeting = Path(scratch) / "meeting"
        ranks = range(1, config.trainer.devices)
        yield meeting, [_start(folder, mode, meeting, rank) for rank in ranks]


def _start(folder: RunFolder, mode: Mode, meeting: Path, rank: int) -> Follower:
    ours, theirs = socket.socketpair()
    arguments = [folder.path, folder.generation, rank, theirs.fileno(), meeting, mode]
    # What this process can import they can, too; -P: and nothing else from this folder.
    search = os.pathsep.join(place or os.getcwd() for place in sys.path)
    with theirs, log_of(folder.path, rank).open("ab") as output:
        started = subprocess.Popen(
            [sys.executable, "-P", "-m", "rhoselect.runtime.rank", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": search},
        )
    return follower(rank, LocalProcess(started), ours, folder)
