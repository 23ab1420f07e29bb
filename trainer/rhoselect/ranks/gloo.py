"""A group of processes of one machine, by gloo. torch.distributed is used here alone.

Only equal bytes are exchanged, and this module does the additions: no topology or release of a
library decides about their order. Sums are computed on the CPU, which a GPU's gradients pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed
from torch import Tensor

from rhoselect.errors import ConfigError, LostRankError, shortened
from rhoselect.ranks.group import Gradients

LOOPBACK = "127.0.0.1"
_distributed = cast(Any, torch.distributed)  # its stubs do not know these
NOTHING = -0.0
"""The number that changes no other one when it is added: 0.0 would change -0.0."""


class GlooGroup:
    """Rank ``rank`` of ``size``. They find each other by a new file at ``meeting``. Raises
    LostRankError unless all have come after ``timeout_s``, the longest wait of every call, too."""

    def __init__(self, rank: int, size: int, meeting: Path, timeout_s: float) -> None:
        self.rank, self.size = rank, size
        options = _distributed.ProcessGroupGloo._Options()
        options._timeout = timedelta(seconds=timeout_s)
        options._devices = [_distributed.ProcessGroupGloo.create_device(hostname=LOOPBACK)]
        self._store = _distributed.FileStore(str(meeting), size)
        with self._lost():
            self._group = _distributed.ProcessGroupGloo(self._store, rank, size, options)

    def total(self, values: Gradients, like: Sequence[Tensor]) -> Gradients:
        """See `Group.total`."""
        present = torch.tensor([float(value is not None) for value in values])
        values, like = [*values, present], [*like, present]
        sums = [torch.empty_like(like[n]) if v is None else v for n, v in enumerate(values)]
        with torch.no_grad(), self._lost():
            for dtype in dict.fromkeys(each.dtype for each in like):
                rows = [row for row, each in enumerate(like) if each.dtype == dtype]
                flat = torch.cat([_flat(values[row], like[row]) for row in rows])
                self._sum(flat)
                parts = torch.split(flat, [like[row].numel() for row in rows])
                for row, part in zip(rows, parts, strict=True):
                    sums[row].copy_(part.view(like[row].shape))
        *totals, _ = sums
        return [each if n else None for each, n in zip(totals, present.tolist(), strict=True)]

    def _sum(self, flat: Tensor) -> None:
        """Sum ``flat`` [N] over all ranks: by halves, with the nearest rank first (Rabenseifner),
        so that each adds one share of it; then the shares are exchanged on the way back."""
        low, high, distance, ways = 0, len(flat), 1, []
        while distance < self.size:
            peer, middle = self.rank ^ distance, (low + high) // 2
            mine, theirs = slice(low, middle), slice(middle, high)
            if self.rank & distance:
                mine, theirs = theirs, mine
            got = torch.empty_like(flat[mine])
            self._swap(flat[theirs], got, peer)
            flat[mine] += got
            ways.append((mine, theirs, peer))
            low, high, distance = mine.start, mine.stop, 2 * distance
        for mine, theirs, peer in reversed(ways):
            self._swap(flat[mine], flat[theirs], peer)

    def _swap(self, out: Tensor, into: Tensor, peer: int) -> None:
        """Send ``out`` to a rank, and receive ``into`` from it."""
        works = [self._group.recv([into], peer, 0)] if len(into) else []
        works += [self._group.send([out], peer, 0)] if len(out) else []
        for work in works:
            work.wait()

    def gathered(self, payload: bytes) -> list[bytes]:
        """See `Exchange.gathered`."""
        with self._lost():
            sizes = self._all(torch.tensor([len(payload)]))
            longest = int(max(sizes))
            padded = torch.frombuffer(bytearray(payload.ljust(longest + 1)), dtype=torch.uint8)
            parts = self._all(padded)
        ends = [int(size) for size in sizes]
        return [part.numpy().tobytes()[:end] for part, end in zip(parts, ends, strict=True)]

    def _all(self, own: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(own) for _ in range(self.size)]
        self._group.allgather([parts], [own]).wait()
        return parts

    @contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # of gloo: after a place in its source comes what happened
            reason = shortened(re.sub(r"^\[\S+\] ", "", str(error)).partition(". ")[0], 200)
            raise LostRankError(f"rank {self.rank} lost another one ({reason})") from None


def _flat(value: Tensor | None, like: Tensor) -> Tensor:
    """The numbers [N] of ``value`` on the CPU; those that change no sum if there is none."""
    if value is None:
        return torch.full((like.numel(),), NOTHING, dtype=like.dtype)
    if value.is_sparse:
        raise ConfigError(
            "trainer.devices: got more than 1 and a model with sparse gradients, allowed 1; or make"
            " its embeddings with sparse=False"
        )
    return value.detach().reshape(-1).cpu()
