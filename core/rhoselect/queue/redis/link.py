"""A process's way to the server: scripts by their hash, patience, and waits.

A wait is on a *bell*: a stream of one entry that a script adds to when something changed. A script
that finds nothing answers with the id of the bell's last entry, and `Link.wait` blocks until there
is a newer one. So everyone who waits is woken, and what rang between the question and the wait is
not lost. Whoever waits also looks for itself every `SLICE_S`, for the sake of bells that a flush
of the server took with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from typing import Any, TypeVar

from rhoselect.queue.redis.server import connect, patiently, server_name

SLICE_S = 1.0
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
        sources = {name: (folder / f"{name}.lua").read_text("utf-8") for name in scripts}
        self._scripts = {n: self.client.register_script(text) for n, text in sources.items()}

    def patiently(self, call: Callable[[], _T]) -> _T:
        """``call()``, which may go on while the server is away: see `server.patiently`."""
        return patiently(call, self._name, self._timeout_s)

    def run(self, script: str, keys: Sequence[str], args: Iterable[Any]) -> Any:
        """Run a script; it is loaded again where the server has lost it."""
        return self.patiently(lambda: self._scripts[script](keys=keys, args=args))

    def wait(
        self, script: str, keys: Sequence[str], args: Sequence[Any], bell: str, timeout_s: float
    ) -> list[Any] | None:
        """The script's first answer that is a list; None if there was none within ``timeout_s``.

        Any other answer is the id of the last entry in ``bell``: asked again when there is another.
        """
        deadline = time.monotonic() + timeout_s
        while not isinstance(answer := self.run(script, keys, args), list):
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._block(bell, answer, min(left, self._slice_s))
        return answer

    def _block(self, bell: str, last: bytes, seconds: float) -> None:
        milliseconds = 1 + int(1000 * seconds)  # 0 would be for ever
        self.patiently(lambda: self.client.xread({bell: last}, block=milliseconds))
