"""What a trainer stands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rhoselect.data import SplitPoints
from rhoselect.selection import Forward
from rhoselect.types import Layout, Popped, Positions


@dataclass(frozen=True)
class Ground:
    """What a run stands on: splits, classes, the replicas that re-score and that evaluate."""

    train: SplitPoints
    test: SplitPoints
    classes: int
    rescorer: Forward
    rescorer_layout: Layout
    evaluator: Forward
    evaluator_layout: Layout


class Fence(Protocol):
    """What keeps an old trainer from going on; ``runfolder.RunFolder`` is one."""

    def check_fence(self) -> None:
        """Raise FencedError if a newer one has taken over."""
        ...


class Hand(Protocol):
    """A scorer that lends the trainer's process a hand. No call waits for weights."""

    def step(self) -> bool:
        """Score the lowest ticket; False if there was none to score yet."""
        ...

    def help(self, window: int, ahead: bool) -> bool:
        """Score a ticket of ``window`` or before: with ``ahead`` of its own lane, too, whose next
        tickets it then reads ahead, else one that waits. False if there was none."""
        ...

    def rush(self) -> bool:
        """Score a shortlist's ticket; False if there was none."""
        ...

    def share(self, slot: int, lanes: int) -> None:
        """From now on have another slot, and its lane of so many."""
        ...


class Source(Protocol):
    """Where a step's candidates come from: ``windows.Windows`` or ``stream.Stream``."""

    waited_s: float

    def open_from(self, window: int) -> None:
        """Have candidates scored from ``window`` on."""
        ...

    def open_ahead(self, window: int) -> None:
        """Have one window more scored, now that ``window`` becomes a step."""
        ...

    def wait(self, window: int, k: int) -> Popped:
        """The best k candidates for step ``window``. Raises WaitError after queue.timeout_s."""
        ...

    def early(self, window: int, k: int) -> None:
        """Post the best k of a window for ``rescore``, if they are known already: before the
        weights for it are published, so that scorers find both."""
        ...

    def rescore(self, window: int, version: int, positions: Positions) -> Popped:
        """``positions`` [N] scored again with ``version``, by all who score."""
        ...

    def rejected(self, window: int) -> list[int]:
        """Positions of ``window`` whose score was NaN or infinite, ascending."""
        ...

    def close(self, window: int) -> None:
        """Forget a window that became a step."""
        ...

    def end(self) -> None:
        """Have done all that was asked for."""
        ...

    def share(self, workers: int) -> None:
        """From now on there are ``workers`` scorers; from any thread."""
        ...

    def version(self, window: int) -> int:
        """The oldest weights that step ``window``, or one after it, may need."""
        ...
