"""What the lead of a run's ranks and a follower tell each other, over a pair of sockets, or over a
connection between machines, whose ends first prove that they know a token of the run.

The lead sends orders of three numbers, and `Kind.ALIVE` every second; the follower answers lines of
a word and a text. No end of a process goes unseen, as the kernel then closes its socket.
"""

from __future__ import annotations

import hmac
import os
import secrets
import select
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from rhoselect.errors import LostRankError, shortened

ALIVE_S = 1.0
_ORDER = struct.Struct("<qqq")
_WHO = struct.Struct("<qq")
_NONCE, _PROOF = 32, 32  # bytes

Word = Literal["ready", "begun", "stop", "lost", "failed"]
"""ready: may join the group. begun: may take steps. stop: it was asked to end. lost: another rank
did not come. failed: anything else ended it."""


class Kind(IntEnum):
    """alive: nothing else. join: all are ready. begin: with the checkpoint of a step. step: take
    it. whole, evaluate, save: see `rhoselect.ranks.group.Work`. share: beside so many scorers from
    now on, a number in place of a step. end: no more steps."""

    ALIVE, JOIN, BEGIN, STEP, WHOLE, EVALUATE, SAVE, SHARE, END = range(9)


@dataclass(frozen=True)
class Order:
    """What a follower is to do."""

    kind: Kind
    step: int


class LeadEnd:
    """The lead's end of the link to one follower. Thread-safe."""

    def __init__(self, link: socket.socket, generation: int) -> None:
        self.link, self._generation = link, generation
        self._lock = threading.Lock()
        self._heard = b""

    def order(self, kind: Kind, step: int = 0) -> None:
        """Send an order. One that cannot arrive is not an error: ``heard`` tells of that end."""
        with self._lock, suppress(OSError):
            self.link.sendall(_ORDER.pack(self._generation, step, kind))

    def heard(self) -> list[tuple[str, str]] | None:
        """The words with their texts that came since the last call; None at the end."""
        try:
            data = self.link.recv(1 << 16)
        except OSError:
            data = b""
        *lines, self._heard = (self._heard + data).split(b"\n")
        parts = [line.decode("utf-8", "replace").partition(" ") for line in lines]
        return [(word, text) for word, _, text in parts] if data else None


class FollowerEnd:
    """A follower's end of the link: it follows the lead of one ``generation``."""

    def __init__(self, link: socket.socket, generation: int, timeout_s: float) -> None:
        self._link, self._generation, self._timeout_s = link, generation, timeout_s
        link.settimeout(ALIVE_S)
        self._heard = b""

    def say(self, word: Word, text: object = "") -> None:
        """Tell the lead, if it lives."""
        with suppress(OSError):
            self._link.sendall(f"{word} {shortened(str(text), 2000)}\n".encode())

    def next(self) -> Order:
        """Wait for the next order. Raises LostRankError if the lead ends, or says nothing for
        ``timeout_s``; the time in which this process itself is suspended does not count."""
        silent_s = 0.0
        while True:
            while len(self._heard) < _ORDER.size:
                if silent_s > self._timeout_s:
                    raise LostRankError(
                        f"rank 0 said nothing for {silent_s:g} s (cluster.rank_timeout_s)"
                    )
                silent_s += 0.0 if self._hear() else ALIVE_S
            silent_s = 0.0
            order, self._heard = self._heard[: _ORDER.size], self._heard[_ORDER.size :]
            generation, step, kind = _ORDER.unpack(order)
            if generation != self._generation:
                raise LostRankError(f"rank 0 is of generation {generation}, not of this one")
            if kind != Kind.ALIVE:
                return Order(Kind(kind), step)

    def check_fence(self) -> None:
        """Raise LostRankError if the lead has ended. For a `Fence`: a process that waits for others
        than the lead asks so whether it lives."""
        while select.select([self._link], [], [], 0)[0]:
            self._hear()

    def _hear(self) -> bool:
        """Take what the lead sends. Returns False if it sends nothing for a while. Raises
        LostRankError if it has ended."""
        try:
            data = self._link.recv(1 << 16)
        except TimeoutError:
            return False
        except OSError:
            data = b""
        if not data:
            raise LostRankError("rank 0 has ended")
        self._heard += data
        return True


def introduced(link: socket.socket, token: bytes, rank: int) -> tuple[int, int]:
    """Prove to the other end that this process, of rank ``rank``, knows ``token``, which does not
    travel, as the other end does, too. Returns its rank and process. Raises OSError unless it can.
    """
    own = secrets.token_bytes(_NONCE) + _WHO.pack(rank, os.getpid())
    link.sendall(own)
    other = _exactly(link, len(own))
    link.sendall(hmac.digest(token, other + own, "sha256"))
    proof = _exactly(link, _PROOF)
    their_rank, process = _WHO.unpack(other[_NONCE:])
    right = hmac.compare_digest(proof, hmac.digest(token, own + other, "sha256"))
    if not right or their_rank == rank:  # what it says may be what it was told
        raise PermissionError("the other end does not know the run's token")
    return their_rank, process


def _exactly(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = link.recv(count - len(data))
        if not part:
            raise ConnectionError("the other end has closed the connection")
        data += part
    return data
