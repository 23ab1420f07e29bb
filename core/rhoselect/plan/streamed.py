"""The plan for object stores: consecutive candidates come from a few shards, O(1) as ``Plan``.

    rows on disk     | block 0 | block 1 | block 2 | block 3 | block 4 | 5 |
    order of blocks  | 3 | 0 | 5| 1 |  4 | 2     keyed by (seed, epoch)
    groups           |---- 0 ---|---- 1 ---|     G blocks each; rows shuffled within a group

The n rows are cut into blocks of as many rows as a shard has; the last may be shorter. An epoch
takes the blocks in a keyed order, G at a time, and shuffles the rows of such a *group* together.
So a window reads from one group, or from two at their border, and the next group is known ahead.
Where the short block stands in the order is drawn too, hence no table is needed to tell a rank's
group: only the ranks after it are shifted. Points of other groups never share a window within an
epoch; in the next epoch the blocks are grouped anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rhoselect.hashing import key64, permute
from rhoselect.plan.shuffled import Plan
from rhoselect.types import Positions

_U64 = npt.NDArray[np.uint64]
BLOCKS, SHORT, ROWS = 1, 2, 3
"""What a key is for, in key64(seed, epoch, …)."""


@dataclass(frozen=True)
class StreamedPlan(Plan):
    """``block`` rows a block (a shard), ``group`` blocks shuffled together; the rest as in Plan."""

    block: int
    group: int

    @property
    def slots(self) -> int:
        """Blocks, with the short one."""
        return -(-self.n // self.block)

    @property
    def groups(self) -> int:
        """Groups an epoch, alike in size to a block: each has at most ``group``."""
        return -(-self.slots // self.group)

    @property
    def group_rows(self) -> int:
        """Rows of the largest group."""
        return min(self.n, -(-self.slots // self.groups) * self.block)

    def ahead(self, positions: Positions) -> Positions:
        """Positions a group later, or a window later where windows are larger."""
        return positions + np.uint64(max(self.group_rows, self.n_B))

    def shuffle(self, ranks: _U64, epoch: int) -> _U64:
        """The points of ``ranks`` [C] in one epoch: a permutation of 0..n-1."""
        short = self._short_slot(epoch)
        slots = self._slot_at(ranks, short)
        groups = ((slots + np.uint64(1)) * np.uint64(self.groups) - np.uint64(1)) // np.uint64(
            self.slots
        )
        shuffled = np.empty_like(ranks)
        for group in np.unique(groups).tolist():
            here = groups == group
            first, last = (self._start(self._first_slot(g), short) for g in (group, group + 1))
            key = key64(self.seed, epoch, ROWS, group)
            inside = permute(ranks[here] - np.uint64(first), last - first, key)
            shuffled[here] = inside + np.uint64(first)
        return self._row_at(shuffled, short, epoch)

    def _short_slot(self, epoch: int) -> int:
        """The place of the short block in an epoch's order; past the end if there is none."""
        if self.n % self.block == 0:
            return self.slots
        return int(key64(self.seed, epoch, SHORT)) % self.slots

    def _first_slot(self, group: int) -> int:
        return group * self.slots // self.groups

    def _start(self, slot: int, short: int) -> int:
        """The first rank of a slot."""
        return slot * self.block - (slot > short) * (self.block - self.n % self.block)

    def _slot_at(self, ranks: _U64, short: int) -> _U64:
        """The slots [C] that hold ``ranks`` [C]."""
        block, missing = np.uint64(self.block), np.uint64(self.block - self.n % self.block)
        after = ranks >= np.uint64(min(self._start(short + 1, short), self.n))
        return (ranks + after * missing) // block

    def _row_at(self, ranks: _U64, short: int, epoch: int) -> _U64:
        """Rows [C] of ``ranks`` [C] in the order of blocks."""
        slots = self._slot_at(ranks, short)
        block, last = np.uint64(self.block), np.uint64(self.n // self.block)
        is_short, after = slots == short, slots > short
        missing = np.uint64(self.block - self.n % self.block)
        offsets = ranks + after * missing - slots * block
        full = slots - after
        blocks = np.full_like(ranks, last)
        if not is_short.all():
            key = key64(self.seed, epoch, BLOCKS)
            blocks[~is_short] = permute(full[~is_short], int(last), key)
        return blocks * block + offsets
