"""Fences keep an old generation of a run from going on."""

from __future__ import annotations

from typing import Protocol

from rhoselect.errors import FencedError


class Fence(Protocol):
    """Tells whether a newer generation took over; ``trainer.runfolder.RunFolder`` is one."""

    def check_fence(self) -> None:
        """Raise FencedError if a newer generation has taken over."""
        ...


class NoFence:
    """The fence of a loop in its own process, which no other generation can take over."""

    def check_fence(self) -> None:
        """Never raises."""


class ClosableFence:
    """A fence that its own side can close, too: a call that waits behind it then ends."""

    def __init__(self, fence: Fence) -> None:
        self._fence, self.closed = fence, False

    def check_fence(self) -> None:
        """Raise FencedError after a newer generation, or once closed."""
        if self.closed:
            raise FencedError("session: has ended")
        self._fence.check_fence()
