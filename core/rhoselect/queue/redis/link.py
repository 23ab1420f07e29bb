"""A process's connection to the server: scripts called by their hash, retries, and waits.

A wait is on a *notification stream*: a Redis stream of one entry, to which a script adds when
something changed. A script that finds nothing returns the id of the stream's last entry, and
`Link.wait` blocks until there is a newer entry. So every waiting client is woken, and an entry
added between the script's answer and the wait is not lost. A waiting client also runs its script
again every `SLICE_S`, because flushing the server deletes the streams.

Scripts go over bare connections: redis-py's client adds more time to a call than the call takes.

In a cluster, one node has all keys of a run, as they share a hash tag. Any other node answers MOVED
with that node's address, and the link turns to it. If a node is gone, the link asks at the address
that it was given, which knows a failover.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import resources
from typing import Any, TypeVar

import redis
from redis.exceptions import MovedError, NoScriptError, ReadOnlyError, ResponseError

from rhoselect.errors import WaitError
from rhoselect.queue.redis.keys import Names
from rhoselect.queue.redis.server import connect, node_url, server_name, with_retries

SLICE_S = 1.0
FENCE_WAIT_S = 1.0  # retries against an unreachable server while a checkpoint is written
Args = Sequence[int | bytes]
_T = TypeVar("_T")


class _Node:
    """A server, and the open connections to it that no call uses: one per concurrent call."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url = url
        self.client = connect(url, timeout_s)
        self.idle: list[Any] = []


class Link:
    """The server at ``url`` and the Lua ``scripts`` (names of files in ``scripts/``) run there."""

    def __init__(self, url: str, timeout_s: float, scripts: Sequence[str]) -> None:
        # The node in use, the one given, and the one that the last MOVED named.
        self._node = self._given = self._moved = _Node(url, timeout_s)
        self._nodes = {url: self._given}
        self._timeout_s = timeout_s
        # A blocking read must return before the socket's own timeout.
        self._slice_s = min(SLICE_S, timeout_s / 2)
        folder = resources.files("rhoselect.queue.redis") / "scripts"
        self._sources = {name: (folder / f"{name}.lua").read_bytes() for name in scripts}
        self._hashes = {
            name: hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
            for name, source in self._sources.items()
        }

    @property
    def client(self) -> redis.Redis:
        """A client of the node in use. It may be another one at the next call."""
        return self._node.client

    def with_retries(self, call: Callable[[], _T], timeout_s: float | None = None) -> _T:
        """The result of ``call()``, which uses ``client`` or `_send`, retried for up to
        ``timeout_s`` (by default that of the link): see `server.with_retries`."""
        return with_retries(
            lambda: self._follow(call),
            lambda: server_name(self._node.url),
            self._timeout_s if timeout_s is None else timeout_s,
        )

    def _follow(self, call: Callable[[], _T]) -> _T:
        """``call()``. If another node has the keys, or may have them, the next call goes there."""
        node = self._node
        try:
            return call()
        except MovedError as error:
            url = node_url(node.url, error.host, error.port)
            if url not in self._nodes:
                self._nodes[url] = _Node(url, self._timeout_s)
            self._node = self._moved = self._nodes[url]
            raise
        except (redis.ConnectionError, redis.TimeoutError):
            if self._node is node:  # else another thread's call has turned already
                self._node = self._moved if node is self._given else self._given
            raise

    def run(self, script: str, keys: Sequence[str], args: Args) -> Any:
        """Run a script. It is loaded again if the server does not have it."""
        return self._evaluate(script, _pack_call(self._hashes[script], keys, args))

    def check_fence(self, names: Names, expiry_ms: int) -> None:
        """Announce the generation of ``names`` for ``expiry_ms``. Raises FencedError if a newer
        generation is announced. Does nothing if the server is unreachable."""
        packed = _pack_call(self._hashes["fence"], [names.newest], [names.generation, expiry_ms])
        with suppress(WaitError):
            self._evaluate("fence", packed, timeout_s=FENCE_WAIT_S)

    def announced(self, names: Names) -> list[str]:
        """The key that announces the generation of ``names``; none if another one is announced."""
        newest = self.with_retries(lambda: self.client.get(names.newest))
        return [names.newest] if newest == b"%d" % names.generation else []

    def wait(
        self,
        script: str,
        keys: Sequence[str],
        args: Args,
        notify: str,
        timeout_s: float,
    ) -> list[Any] | None:
        """Run the script until it returns a list, and return that; None after ``timeout_s``.

        Any other answer is the id of the last entry of the stream ``notify``: the script runs again
        when the stream has a newer one.
        """
        packed = _pack_call(self._hashes[script], keys, args)
        deadline = time.monotonic() + timeout_s
        while not isinstance(answer := self._evaluate(script, packed), list):
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._block(notify, answer, min(left, self._slice_s))
        return answer

    def _evaluate(self, script: str, packed: bytes, timeout_s: float | None = None) -> Any:
        def call() -> Any:
            try:
                return self._send(packed)
            except NoScriptError:
                self._send(_pack([b"SCRIPT", b"LOAD", self._sources[script]]))
                return self._send(packed)

        return self.with_retries(call, timeout_s)

    def _block(self, notify: str, last: bytes, seconds: float) -> None:
        milliseconds = b"%d" % (1 + int(1000 * seconds))  # 0 would block without limit
        packed = _pack([b"XREAD", b"BLOCK", milliseconds, b"STREAMS", notify.encode(), last])
        self.with_retries(lambda: self._send(packed))

    def _send(self, packed: bytes) -> Any:
        """Send a packed command and return its answer."""
        node = self._node
        try:
            connection = node.idle.pop()
        except IndexError:
            connection = node.client.connection_pool.make_connection()
        try:
            connection.send_packed_command([packed])
            return connection.read_response()
        except BaseException as error:
            if not isinstance(error, ResponseError) or isinstance(error, ReadOnlyError):
                connection.disconnect()  # a late answer must not be read as the next call's
            raise
        finally:
            node.idle.append(connection)

    def close(self) -> None:
        """Close this process's connections."""
        for node in self._nodes.values():
            while node.idle:
                node.idle.pop().disconnect()
            node.client.close()


def _pack_call(sha: bytes, keys: Sequence[str], args: Args) -> bytes:
    names = [key.encode() for key in keys]
    values = [arg if isinstance(arg, bytes) else b"%d" % arg for arg in args]
    return _pack([b"EVALSHA", sha, b"%d" % len(names), *names, *values])


def _pack(parts: list[bytes]) -> bytes:
    """A command as Redis reads it: an array of strings."""
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(p), p) for p in parts])
