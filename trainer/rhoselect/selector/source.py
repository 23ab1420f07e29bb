"""The source of a step's candidates."""

from __future__ import annotations

from typing import Protocol

from rhoselect.types import Positions, TopK


class Source(Protocol):
    """The queue as the selector uses it: ``windows.Windows`` or ``stream.Stream``."""

    waited_s: float
    """Seconds that ``wait`` and ``rescore`` have taken since the run began."""

    def open_from(self, window: int) -> None:
        """Let scorers begin with ``window`` and the windows ahead of it."""
        ...

    def open_ahead(self, window: int) -> None:
        """Let scorers begin with one more window, while the trainer trains on ``window``."""
        ...

    def wait(self, window: int, k: int) -> TopK:
        """The best k candidates for step ``window``. Raises WaitError after queue.timeout_s."""
        ...

    def prepost(self, window: int, k: int) -> None:
        """Open the shortlist of a window, its best k points, if the window is already complete.
        Called before the weights that re-score it are published, so that scorers claim first."""
        ...

    def rescore(self, window: int, version: int, positions: Positions) -> TopK:
        """Have ``positions`` [N] scored again with ``version``, by the scorers and this process."""
        ...

    def rejected(self, window: int) -> list[int]:
        """Positions of ``window`` whose score was NaN or infinite, ascending."""
        ...

    def close(self, window: int) -> None:
        """Close a window after its step."""
        ...

    def end(self) -> None:
        """Wait for the background work. Raises its errors."""
        ...

    def share(self, workers: int) -> None:
        """Set the number of scorers; any thread may call this."""
        ...

    def version(self, window: int) -> int:
        """The oldest version of the weights that step ``window`` or a later one may need."""
        ...

    def check_fence(self) -> None:
        """Raise FencedError if a newer generation has taken over."""
        ...
