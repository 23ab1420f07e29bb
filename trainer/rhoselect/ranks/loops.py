"""The processes of a loop of the user's own, as its torch.distributed knows them."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor

from rhoselect.errors import ConfigError, LostRankError, RhoError, RunError, shortened
from rhoselect.ranks.group import Alone, Exchange

LEAD = 0
_T = TypeVar("_T")


class LoopGroup:
    """All processes of the loop's torch.distributed, in a gloo group beside the loop's own: what
    is exchanged here does not mix with what the loop sends, and no GPU waits for it. Raises
    LostRankError for ranks that do not come within ``timeout_s``, the longest wait of every call,
    too."""

    def __init__(self, timeout_s: float) -> None:
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()
        self._timeout_s, others = timeout_s, f"one of {self.size} ranks"
        limit = timedelta(seconds=timeout_s)
        self._group = self._hearing(
            others, lambda: torch.distributed.new_group(backend="gloo", timeout=limit)
        )

    def gathered(self, payload: bytes) -> list[bytes]:
        """See `Exchange.gathered`. Rank 0 first hears of each other one, so that it can name the
        one that is missing."""
        sizes = torch.zeros(self.size, dtype=torch.int64)
        sizes[self.rank] = len(payload)
        if self.rank == LEAD:
            for other in range(1, self.size):
                self._receive(sizes[other : other + 1], other)
            for other in range(1, self.size):
                self._send(sizes, other)
        else:
            self._send(sizes[self.rank : self.rank + 1], LEAD)
            self._receive(sizes, LEAD)
        ends = sizes.tolist()
        if not any(ends):
            return [b""] * self.size
        own = torch.frombuffer(bytearray(payload.ljust(max(ends))), dtype=torch.uint8)
        parts = [torch.empty_like(own) for _ in ends]
        self._hearing(
            "another rank", lambda: torch.distributed.all_gather(parts, own, group=self._group)
        )
        return [part.numpy().tobytes()[:end] for part, end in zip(parts, ends, strict=True)]

    def _send(self, tensor: Tensor, to: int) -> None:
        self._hearing(f"rank {to}", lambda: torch.distributed.send(tensor, to, group=self._group))

    def _receive(self, into: Tensor, source: int) -> None:
        self._hearing(
            f"rank {source}", lambda: torch.distributed.recv(into, source, group=self._group)
        )

    def _hearing(self, other: str, call: Callable[[], _T]) -> _T:
        try:
            return call()
        except RuntimeError as error:  # of gloo: after a place in its source comes what happened
            reason = shortened(re.sub(r"^\[\S+\] ", "", str(error)).partition(". ")[0], 200)
            raise LostRankError(
                f"rank {self.rank} lost {other} ({reason}): it ended, left the loop or did not come"
                f" for {self._timeout_s:g} s (timeout_s); see its output. All processes of"
                " torch.distributed make a SelectionClient and call it alike; one that selects for"
                " itself makes it with alone=True"
            ) from None


def group_of_loop(alone: bool, timeout_s: float) -> Exchange:
    """The processes of torch.distributed, if it is initialised with several; this one ``alone``
    otherwise."""
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    if alone or not several or torch.distributed.get_world_size() == 1:
        return Alone()
    return LoopGroup(timeout_s)


def rows_of(group: Exchange) -> slice:
    """This rank's share of a batch in training order. It is not a block: the first block would have
    all of the best scores."""
    return slice(group.rank, None, group.size)


def check_share(n_b: int, ranks: int) -> None:
    """Raise ConfigError unless ranks can have equal shares of a batch: else a mean over ranks would
    not be the mean over points."""
    if ranks < 1 or n_b % ranks:
        fewer = n_b // max(1, ranks) * ranks
        fit = " or ".join(str(each) for each in (fewer, fewer + ranks) if each > 0)
        raise ConfigError(
            f"selection.n_b: got {n_b} with {ranks} processes, allowed multiples of {ranks}, as"
            f" each trains on as many points; set {fit}, or start another number of processes"
        )


def by_lead(group: Exchange, call: Callable[[], bytes]) -> bytes:
    """What ``call`` gives on rank 0, where alone it is called; the others wait for it. Its error is
    raised on all ranks, on the others as a RunError."""
    said, failed = b"", None
    if group.rank == LEAD:
        try:
            said = b"+" + call()
        except RhoError as error:
            said, failed = b"-" + str(error).encode(), error
    said = group.gathered(said)[LEAD]
    if failed is not None:
        raise failed
    if said.startswith(b"-"):
        raise RunError(f"rank {LEAD}: {said[1:].decode()}")
    return said[1:]
