"""A real run of ``rhoctl train`` under seeded faults: processes are killed and frozen, the queue is
emptied, the disk is full. In the end its two hashes must be those of an undisturbed run.

One fault at a time: it is done, then the run must recover, which is: a checkpoint that is newer
than the fault, and a new process that scores in the place of every scorer that was killed. What
does not come within `DEADLINE_S` is a hang. A command that ends though its trainer lives is a loss.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import points
from queue_server import QueueServer

DEADLINE_S = 300.0  # a trainer with eight scorers starts in 40 s; on a busy machine in minutes
POLL_S = 0.02


class Hang(Exception):
    """Something that must come did not."""


class Lost(Exception):
    """A run ended that should have gone on, or ended in another way than it should."""


@dataclass(frozen=True)
class Fault:
    """``kills`` processes were killed; the run was ``recovery_s`` seconds behind."""

    kind: str
    step: int
    kills: int
    recovery_s: float


@dataclass
class Outcome:
    """What became of a run: ``problem`` is None if it came to its end."""

    seed: int
    faults: list[Fault] = field(default_factory=list)
    hashes: tuple[str, str] | None = None
    problem: str | None = None
    hang: bool = False
    server_peak_bytes: int = 0


class ChaoticRun:
    """A run of ``config`` with ``settings``, in ``folder``; its faults come from ``seed``.

    It has up to ``most_workers``; with ``slow`` its steps take longer until all faults have been.
    """

    def __init__(
        self,
        folder: Path,
        config: Path,
        settings: Iterable[str],
        seed: int,
        server: QueueServer,
        most_workers: int = 4,
        slow: bool = False,
    ) -> None:
        self.path, self.server, self.most_workers = folder / "run", server, most_workers
        self.random = random.Random(seed)
        self.outcome = Outcome(seed)
        self._points, self._log = folder / "points", folder / "command.log"
        self._points.mkdir(parents=True)
        keys = ["model.factory=points:mlp", f"queue.url={server.url}", *settings]
        self._first = [str(config), *(word for key in keys for word in ("--set", key))]
        self._commands: list[subprocess.Popen[bytes]] = []
        if slow:
            (self._points / points.SLOW).touch()
        self.may_end = False

    def run(self, faults: Iterable[tuple[str, Callable[[ChaoticRun], int]]]) -> Outcome:
        """Start the run, let these faults (kinds and what does them) happen to it until it ends,
        and tell. A fault that may end the command says so in ``may_end``."""
        try:
            self.begin()
            for kind, fault in faults:
                time.sleep(self.random.uniform(0.0, 0.5))
                if self.finished():
                    break
                self.suffer(kind, fault)
            (self._points / points.SLOW).unlink(missing_ok=True)
            while not self.finished():
                self.until_moved()
            self._end()
        except (Hang, Lost) as problem:
            self.outcome.problem = f"{type(problem).__name__}: {problem}"
            self.outcome.hang = isinstance(problem, Hang)
        finally:
            self.close()
            self.outcome.server_peak_bytes = self.server.peak_bytes
        return self.outcome

    def begin(self) -> None:
        """Start the run; returns when it has a checkpoint and all of its scorers."""
        self.start(resume=False)
        self.wait_for(lambda: self.step() > 0 and self._ready())

    def close(self) -> None:
        """Have no command of this run go on."""
        for command in self._commands:
            command.kill()
            command.wait()

    def suffer(self, kind: str, fault: Callable[[ChaoticRun], int]) -> None:
        """Do a fault, wait until the run has recovered, and note it."""
        before, started = self.step(), time.monotonic()
        kills = fault(self)
        self.wait_for(lambda: self.finished() or (self.step() > before and self._ready()))
        seconds = time.monotonic() - started
        self.outcome.faults.append(Fault(kind, before, kills, seconds))

    def wait_for(self, come: Callable[[], bool]) -> None:
        """Wait for something that comes only if the run goes on; resume it if its command ended."""
        deadline = time.monotonic() + DEADLINE_S
        while not come():
            code = self.command.poll()
            if code is not None and not self.finished():
                if not self.may_end or code not in (1, -signal.SIGKILL):
                    raise Lost(f"the command ended with {code}: {self.tail()}")
                self.start(resume=True)
            if time.monotonic() > deadline:
                raise Hang(f"step {self.step()}, {self.tail()}")
            time.sleep(POLL_S)

    def _end(self) -> None:
        code = self.ended(self.command)
        if code and not self.may_end:
            raise Lost(f"the finished run's command ended with {code}: {self.tail()}")
        if "Traceback" in self.said():
            raise Lost(f"a traceback in {self._log}")
        summary = json.loads((self.path / "summary.json").read_text())
        self.outcome.hashes = summary["selected_sha256"], summary["weights_sha256"]

    # What the faults look at and do.

    def start(self, resume: bool) -> None:
        """Start the command, or start it again in the same folder."""
        self.may_end = False
        self.workers = self.random.randint(1, self.most_workers)
        words = ["--resume"] if resume else self._first
        words += ["--workers", str(self.workers), "--run-dir", str(self.path)]
        here = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, here)),
            points.FOLDER: str(self._points),
        }
        with self._log.open("ab") as log:
            self.command = subprocess.Popen(
                [sys.executable, "-m", "rhoselect.cli", "train", *words],
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._commands.append(self.command)

    def ended(self, command: subprocess.Popen[bytes]) -> int:
        """The exit code of a command that must end by itself now."""
        try:
            return command.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise Hang(f"a command does not end; {self.tail()}") from None

    def end_command(self) -> None:
        """SIGKILL the command; its actors go with it."""
        self.command.kill()
        self.command.wait()

    def finished(self) -> bool:
        """Whether the run has its summary."""
        return (self.path / "summary.json").exists()

    def step(self) -> int:
        """That of the newest checkpoint."""
        found = (self.path / "checkpoints").glob("step-*.safetensors")
        return max((int(p.stem.removeprefix("step-")) for p in found), default=0)

    def process(self, actor: str) -> int | None:
        """The number of an actor's newest process, from its log; a scorer's once it is ready."""
        log = self.path / "logs" / f"{actor}.log"
        what = "starts" if actor == "trainer" else "is ready"
        found = re.findall(rf"process (\d+) {what}", log.read_text()) if log.exists() else []
        return int(found[-1]) if found else None

    def scorers(self) -> dict[int, int]:
        """Process numbers of the scorers that are ready, by slot."""
        found = {slot: self.process(f"scorer-{slot}") for slot in range(self.workers)}
        return {slot: pid for slot, pid in found.items() if pid is not None and _lives(pid)}

    def trainer(self) -> int:
        """The trainer's process."""
        pid = self.process("trainer")
        assert pid is not None, "there is a checkpoint, so there was a trainer"
        return pid

    def until_moved(self) -> None:
        """Wait for a checkpoint that is newer than the newest one of now."""
        before = self.step()
        self.wait_for(lambda: self.finished() or self.step() > before)

    def kill(self, pids: Iterable[int]) -> int:
        """SIGKILL; returns how many there were to kill."""
        return sum(_send(pid, signal.SIGKILL) for pid in pids)

    def freeze(self, pid: int, seconds: float) -> None:
        """Let a process do nothing for a while."""
        with self.frozen(pid):
            time.sleep(seconds)

    @contextmanager
    def frozen(self, pid: int) -> Iterator[None]:
        """Let a process do nothing within the block."""
        _send(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            _send(pid, signal.SIGCONT)

    def said(self) -> str:
        """All that the run's commands said."""
        return self._log.read_text(errors="replace")

    def tail(self) -> str:
        """The last line that a command said."""
        return next((line for line in reversed(self.said().split("\n")) if line.strip()), "nothing")

    def die_at(self, point: str) -> int:
        """Have the next process that comes by ``point`` die there; 0 if none came."""
        armed = self._points / point
        armed.touch()
        deadline = time.monotonic() + DEADLINE_S
        while armed.exists() and not self.finished():
            if time.monotonic() > deadline:
                raise Hang(f"nobody came by: {point}; {self.tail()}")
            time.sleep(POLL_S)
        if armed.exists():
            armed.unlink()
            return 0
        [taken] = self._points.glob(f"{point}.*")
        pid = int(taken.suffix[1:])
        taken.unlink()
        self.may_end = pid == self.process("trainer")
        self.until_gone([pid])
        return 1

    def until_gone(self, pids: Iterable[int]) -> None:
        """Wait until these processes, which must end now, are no more."""
        deadline = time.monotonic() + DEADLINE_S
        while any(_lives(pid) for pid in pids):
            if time.monotonic() > deadline:
                raise Hang("a process does not end")
            time.sleep(POLL_S)

    def _alive(self, actor: str) -> bool:
        pid = self.process(actor)
        return pid is not None and _lives(pid)

    def _ready(self) -> bool:
        going_on = self.command.poll() is None and self._alive("trainer")
        return going_on and len(self.scorers()) == self.workers


def _send(pid: int, sign: signal.Signals) -> bool:
    try:
        os.kill(pid, sign)
    except ProcessLookupError:
        return False
    return True


def _lives(pid: int) -> bool:
    """Whether there is such a process that is not just dead and not yet buried."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"
