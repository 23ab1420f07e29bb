"""Fences stop an old generation of a run once a newer one has taken over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rhoselect.errors import FencedError

ONE_LOOP = (
    "allowed one client of a run at a time; the processes of a data-parallel loop make one together"
    ' once torch.distributed is initialised (docs/service.md, "Several processes")'
)


class Fence(Protocol):
    """Checks whether a newer generation took over. ``trainer.runfolder.RunFolder`` is one."""

    def check_fence(self) -> None:
        """Raise FencedError if a newer generation has taken over."""
        ...


class NoFence:
    """The fence of a loop in one process, which no other generation can take over."""

    def check_fence(self) -> None:
        """Do nothing."""


class Fences:
    """Several checks as one."""

    def __init__(self, *checks: Callable[[], object]) -> None:
        self._checks = checks

    def check_fence(self) -> None:
        """Make them all. Raises what they raise."""
        for check in self._checks:
            check()


class ClosableFence:
    """A fence that its owner can also close, to end a call that waits in another thread."""

    def __init__(self, fence: Fence) -> None:
        self._fence, self.closed = fence, False

    def check_fence(self) -> None:
        """Raise FencedError if a newer generation has taken over, or if closed."""
        if self.closed:
            raise FencedError(
                f"session: ended by another client of the run, or with its service; {ONE_LOOP}"
            )
        try:
            self._fence.check_fence()
        except FencedError as error:
            raise FencedError(f"session: ended by another client of the run; {ONE_LOOP}") from error
