"""Where the candidates of a step come from."""

from __future__ import annotations

from typing import Protocol

from rhoselect.types import Positions, TopK


class Source(Protocol):
    """``windows.Windows`` or ``stream.Stream``."""

    waited_s: float

    def open_from(self, window: int) -> None:
        """Have candidates scored from ``window`` on."""
        ...

    def open_ahead(self, window: int) -> None:
        """Have one window more scored, now that ``window`` becomes a step."""
        ...

    def wait(self, window: int, k: int) -> TopK:
        """The best k candidates for step ``window``. Raises WaitError after queue.timeout_s."""
        ...

    def prepost(self, window: int, k: int) -> None:
        """Post the best k of a window for ``rescore``, if they are known already: before the
        weights for it are published, so that scorers find both."""
        ...

    def rescore(self, window: int, version: int, positions: Positions) -> TopK:
        """``positions`` [N] scored again with ``version``, by the scorers and this process."""
        ...

    def rejected(self, window: int) -> list[int]:
        """Positions of ``window`` whose score was NaN or infinite, ascending."""
        ...

    def close(self, window: int) -> None:
        """Forget a window that became a step."""
        ...

    def end(self) -> None:
        """Finish what runs in the background."""
        ...

    def share(self, workers: int) -> None:
        """From now on there are ``workers`` scorers; from any thread."""
        ...

    def version(self, window: int) -> int:
        """The oldest weights that step ``window``, or one after it, may need."""
        ...

    def check_fence(self) -> None:
        """Raise FencedError if a newer generation has taken over."""
        ...
