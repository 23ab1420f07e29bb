"""A process's way to the server: scripts by their hash, patience, and waits.

A wait is on a *bell*: a stream of one entry that a script adds to when something changed. A script
that finds nothing answers with the id of the bell's last entry, and `Link.wait` blocks until there
is a newer one. So everyone who waits is woken, and what rang between the question and the wait is
not lost. Whoever waits also looks for itself every `SLICE_S`, for the sake of bells that a flush
of the server took with it.

Scripts go over bare connections: what redis-py's client adds to a call costs more than the call.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import resources
from typing import Any, TypeVar

import numpy as np
from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError

from rhoselect.errors import WaitError
from rhoselect.queue.redis.keys import Names
from rhoselect.queue.redis.server import connect, server_name, with_retries
from rhoselect.types import Scores

SLICE_S = 1.0
FENCE_WAIT_S = 1.0  # for a server that is away while a checkpoint is written
Args = Sequence[int | bytes]
_T = TypeVar("_T")


class Link:
    """The server at ``url`` and the Lua ``scripts`` (names of files in ``scripts/``) run there."""

    def __init__(self, url: str, timeout_s: float, scripts: Sequence[str]) -> None:
        self.client = connect(url, timeout_s)
        self._name = server_name(url)
        self._timeout_s = timeout_s
        # A blocked read must return before the socket gives the server up.
        self._slice_s = min(SLICE_S, timeout_s / 2)
        folder = resources.files("rhoselect.queue.redis") / "scripts"
        self._sources = {name: (folder / f"{name}.lua").read_bytes() for name in scripts}
        self._hashes = {
            name: hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
            for name, source in self._sources.items()
        }
        self._idle: list[Any] = []  # connections; as many as there were calls at once

    def with_retries(self, call: Callable[[], _T]) -> _T:
        """``call()``, which may go on while the server is away: see `server.with_retries`."""
        return with_retries(call, self._name, self._timeout_s)

    def run(self, script: str, keys: Sequence[str], args: Args) -> Any:
        """Run a script; it is loaded again where the server has lost it."""
        return self._evaluate(script, _pack_call(self._hashes[script], keys, args))

    def check_fence(self, names: Names, expiry_ms: int) -> None:
        """Announce the generation of ``names`` for ``expiry_ms``. Raises FencedError if a newer one
        is there. A server that is away knows none."""
        packed = _pack_call(self._hashes["fence"], [names.newest], [names.generation, expiry_ms])
        with suppress(WaitError):
            self._evaluate("fence", packed, timeout_s=FENCE_WAIT_S)

    def announced(self, names: Names) -> list[str]:
        """The key that announces the generation of ``names``; none if another one is announced."""
        newest = self.with_retries(lambda: self.client.get(names.newest))
        return [names.newest] if newest == b"%d" % names.generation else []

    def best(self, key: str, k: int) -> tuple[bytes, Scores]:
        """The k >= 1 last members of a sorted set, backwards, joined, and their scores."""
        found: Any = self.with_retries(
            lambda: self.client.zrange(key, 0, k - 1, desc=True, withscores=True)
        )
        members = b"".join(member for member, _ in found)
        return members, np.array([score for _, score in found], np.float64)

    def wait(
        self,
        script: str,
        keys: Sequence[str],
        args: Args,
        bell: str,
        timeout_s: float,
    ) -> list[Any] | None:
        """The script's first answer that is a list; None if there was none within ``timeout_s``.

        Any other answer is the id of the last entry in ``bell``: asked again when there is another.
        """
        packed = _pack_call(self._hashes[script], keys, args)
        deadline = time.monotonic() + timeout_s
        while not isinstance(answer := self._evaluate(script, packed), list):
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._block(bell, answer, min(left, self._slice_s))
        return answer

    def _evaluate(self, script: str, packed: bytes, timeout_s: float | None = None) -> Any:
        def call() -> Any:
            try:
                return self._send(packed)
            except NoScriptError:
                self._send(_pack([b"SCRIPT", b"LOAD", self._sources[script]]))
                return self._send(packed)

        return with_retries(call, self._name, self._timeout_s if timeout_s is None else timeout_s)

    def _block(self, bell: str, last: bytes, seconds: float) -> None:
        milliseconds = b"%d" % (1 + int(1000 * seconds))  # 0 would be for ever
        packed = _pack([b"XREAD", b"BLOCK", milliseconds, b"STREAMS", bell.encode(), last])
        self.with_retries(lambda: self._send(packed))

    def _send(self, packed: bytes) -> Any:
        """The answer to a packed command."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self.client.connection_pool.make_connection()
        try:
            connection.send_packed_command([packed])
            return connection.read_response()
        except BaseException as error:
            if not isinstance(error, ResponseError) or isinstance(error, ReadOnlyError):
                connection.disconnect()  # the answer may still come; the next call connects again
            raise
        finally:
            self._idle.append(connection)

    def close(self) -> None:
        """Close this process's connections."""
        while self._idle:
            self._idle.pop().disconnect()
        self.client.close()


def _pack_call(sha: bytes, keys: Sequence[str], args: Args) -> bytes:
    names = [key.encode() for key in keys]
    values = [arg if isinstance(arg, bytes) else b"%d" % arg for arg in args]
    return _pack([b"EVALSHA", sha, b"%d" % len(names), *names, *values])


def _pack(parts: list[bytes]) -> bytes:
    """A command as Redis reads it: an array of strings."""
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(p), p) for p in parts])
