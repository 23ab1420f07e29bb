"""What the ranks of a run do together; and the one rank of most runs, which does it alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from torch import Tensor

Gradients = Sequence[Tensor | None]
"""One for each parameter; None for one that took no part."""

Work = Literal["whole", "evaluate", "save"]
"""What the lead does with the others between two steps, with a divided model. whole: it gathers it.
evaluate: all measure it. save: all write a checkpoint of it."""


class Exchange(Protocol):
    """Ranks that exchange bytes. All call the same methods in the same order, and each waits for
    all. Raises LostRankError if one does not come."""

    @property
    def rank(self) -> int:
        """The number of this one, from 0, the lead, on."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def gathered(self, payload: bytes) -> list[bytes]:
        """The bytes that each rank gave, by rank."""
        ...


class Group(Exchange, Protocol):
    """Equal ranks, 1, 2, 4, … of them, that train together."""

    def total(self, values: Gradients, like: Sequence[Tensor]) -> Gradients:
        """The sums over all ranks, in one fixed tree: neighbours first, then their sums. So bits
        do not depend on the number of ranks that share the leaves of the tree.

        ``like`` has the shapes, dtypes and strides of ``values``, also of those that are None here.
        A sum is None if it is None everywhere. Values belong to their sums from now on.
        """
        ...

    def call(self, work: Work, step: int = 0) -> None:
        """The lead, after ``step`` steps: have the others take part in ``work``. Another rank's
        call does nothing."""
        ...


class Alone:
    """The group of a run with one rank."""

    rank, size = 0, 1

    def total(self, values: Gradients, like: Sequence[Tensor]) -> Gradients:
        """See `Group.total`."""
        return values

    def gathered(self, payload: bytes) -> list[bytes]:
        """See `Exchange.gathered`."""
        return [payload]

    def call(self, work: Work, step: int = 0) -> None:
        """There are no others."""


def share(group: Group, count: int) -> range:
    """The micro-batches of this rank, of ``count``: neighbours, as they are summed first."""
    own = count // group.size
    return range(group.rank * own, (group.rank + 1) * own)
