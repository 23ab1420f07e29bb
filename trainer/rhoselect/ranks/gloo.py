"""A group of processes, by gloo. torch.distributed is used in this room alone.

Only equal bytes are exchanged, and this module does the additions: no topology or release of a
library decides about their order. Sums are computed on the CPU, which a GPU's gradients pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed
from torch import Tensor

from rhoselect.errors import ConfigError, LostRankError, shortened
from rhoselect.ranks.group import Gradients, Work

LOOPBACK = "127.0.0.1"
_distributed = cast(Any, torch.distributed)  # its stubs do not know these
LARGE_BYTES, FEW = 1 << 17, 1 << 14
PART = 1 << 20  # numbers that are sent at once
CONNECT = timedelta(minutes=1)  # torch asks for a name of the address: 10 s if no server answers
HEAD_BYTES, FIRST_BYTES = 8, 1 << 14  # its length; length and payload that are exchanged first
NOTHING = -0.0
"""The number that changes no other one when it is added: 0.0 would change -0.0."""


@dataclass(frozen=True)
class Meeting:
    """Where ranks on several machines find each other: at ``port`` of the lead's machine, which has
    the address ``lead``. The machine of this rank has the address ``own``. ``socket`` is the number
    of the lead's socket, bound to that port: so torch does not listen at all addresses."""

    lead: str
    port: int
    own: str
    socket: int | None = None


class GlooGroup:
    """Rank ``rank`` of ``size``. They find each other at ``meeting``; if it is a path, by a new
    file there, on one machine. Raises LostRankError unless all have come after ``timeout_s``, the
    longest wait of every call, too. ``calls`` is how the lead calls the others, ``check`` raises
    LostRankError once this rank knows of another's end; ``settle`` waits for what `Shards` began on
    a GPU, ``leave`` ends it."""

    def __init__(self, rank: int, size: int, meeting: Path | Meeting, timeout_s: float) -> None:
        self.rank, self.size, self.timeout_s = rank, size, timeout_s
        self.calls: Callable[[Work, int], object] = lambda work, step: None
        self.check: Callable[[], object] = lambda: None
        self.settle: Callable[[], object] = lambda: None
        self.leave: Callable[[], object] = lambda: None
        self.address = LOOPBACK if isinstance(meeting, Path) else meeting.own
        limit = timedelta(seconds=timeout_s)
        with self._lost():
            self.store = _store(meeting, size, limit)
            self._group = gloo_at(self.address, self.store, rank, size, limit)

    def total(self, values: Gradients, like: Sequence[Tensor]) -> Gradients:
        """See `Group.total`."""
        self.settle()
        present = torch.tensor([float(value is not None) for value in values])
        values, like = [*values, present], [*like, present]
        sums = [_given(value, each) for value, each in zip(values, like, strict=True)]
        with torch.no_grad(), self._lost():
            self._become_sums(sums, like)
        *totals, present = sums
        return [each if n else None for each, n in zip(totals, present.tolist(), strict=True)]

    def _become_sums(self, values: Sequence[Tensor], like: Sequence[Tensor]) -> None:
        """Sum each of ``values`` over all ranks. Large ones become their sums where they are; the
        others are copied into one flat tensor for each dtype, and back."""
        large, small = list[Tensor](), dict[torch.dtype, list[Tensor]]()
        for value, each in zip(values, like, strict=True):
            if _is_large(each):
                large.append(value.view(-1))
            else:
                small.setdefault(value.dtype, []).append(value)
        flats = [flat_of([each.cpu() for each in same]) for same in small.values()]
        self._sum([*flats, *large])
        for same, flat in zip(small.values(), flats, strict=True):
            fill(same, flat)

    def _sum(self, flats: Sequence[Tensor]) -> None:
        """Sum each of ``flats`` [N] over all ranks. While one part waits for another rank, the next
        is added."""
        parts = [part for flat in flats for part in torch.split(flat, PART)]
        going = [self._summing(part, tag) for tag, part in enumerate(parts)]
        while going:
            going = [each for each in going if next(each, True) is None]

    def _summing(self, flat: Tensor, tag: int) -> Iterator[None]:
        """Sum ``flat`` [N]: by halves, with the nearest rank first (Rabenseifner), so that each
        adds one share of it; then the shares are exchanged on the way back. Few numbers are not
        halved: all add all of them, in the same tree. Yields before it waits."""
        low, high, distance, ways = 0, len(flat), 1, []
        halves = len(flat) > FEW
        while distance < self.size:
            peer, middle = self.rank ^ distance, (low + high) // 2
            mine, theirs = slice(low, middle), slice(middle, high)
            if not halves:
                mine = theirs = slice(low, high)
            elif self.rank & distance:
                mine, theirs = theirs, mine
            got = torch.empty_like(flat[mine])
            yield from self._swap(flat[theirs], got, peer, tag)
            flat[mine] += got
            if halves:
                ways.append((mine, theirs, peer))
            low, high, distance = mine.start, mine.stop, 2 * distance
        for mine, theirs, peer in reversed(ways):
            yield from self._swap(flat[mine], flat[theirs], peer, tag)

    def _swap(self, out: Tensor, into: Tensor, peer: int, tag: int) -> Iterator[None]:
        """Send ``out`` to a rank, and receive ``into`` from it."""
        works = [self._group.recv([into], peer, tag)] if len(into) else []
        works += [self._group.send([out], peer, tag)] if len(out) else []
        yield
        for work in works:
            work.wait()

    def gathered(self, payload: bytes) -> list[bytes]:
        """See `Exchange.gathered`. A short payload needs one exchange, a longer one another."""
        head = len(payload).to_bytes(HEAD_BYTES, "little") + payload[: FIRST_BYTES - HEAD_BYTES]
        with self._lost():
            parts = self._all(head, FIRST_BYTES)
            lengths = [int.from_bytes(part[:HEAD_BYTES], "little") for part in parts]
            parts = [part[HEAD_BYTES:] for part in parts]
            if (left := HEAD_BYTES + max(lengths) - FIRST_BYTES) > 0:
                rest = self._all(payload[FIRST_BYTES - HEAD_BYTES :], left)
                parts = [first + more for first, more in zip(parts, rest, strict=True)]
        return [part[:length] for part, length in zip(parts, lengths, strict=True)]

    def _all(self, payload: bytes, width: int) -> list[bytes]:
        """The payload of each rank, filled up to ``width`` bytes. In each turn a rank gets as many
        as it has from the next rank of which it has none (Bruck), so that k ranks need log2(k)
        turns instead of the k - 1 of a ring."""
        blocks = torch.empty(self.size, width, dtype=torch.uint8)
        blocks[0] = torch.frombuffer(bytearray(payload.ljust(width)), dtype=torch.uint8)
        have = 1
        while have < self.size:
            count = min(have, self.size - have)
            into, out = blocks[have : have + count], blocks[:count]
            before, after = (self.rank - have) % self.size, (self.rank + have) % self.size
            received = self._group.recv([into], after, 0)
            self._group.send([out], before, 0).wait()
            received.wait()
            have += count
        return [block.tobytes() for block in blocks.roll(self.rank, 0).numpy()]

    def call(self, work: Work, step: int = 0) -> None:
        """See `Group.call`: the lead's ``calls`` does it."""
        self.calls(work, step)

    @contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise LostRankError(f"rank {self.rank} lost another one ({reason(error)})") from None


def reason(error: RuntimeError) -> str:
    """What gloo says, without the place in its source."""
    return shortened(re.sub(r"^\[\S+\] ", "", str(error)).partition(". ")[0], 200)


def _store(meeting: Path | Meeting, size: int, limit: timedelta) -> Any:
    """What ranks tell each other their addresses by."""
    if isinstance(meeting, Path):
        store = _distributed.FileStore(str(meeting), size)
        store.set_timeout(limit)
        return store
    return _distributed.TCPStore(
        meeting.lead,
        meeting.port,
        size,
        is_master=meeting.socket is not None,
        timeout=max(limit, CONNECT),
        wait_for_workers=False,
        master_listen_fd=meeting.socket,
    )


def gloo_at(address: str, store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    """gloo between processes of which this one listens at ``address``."""
    options = _distributed.ProcessGroupGloo._Options()
    options._timeout = timeout
    options._devices = [_distributed.ProcessGroupGloo.create_device(hostname=address)]
    return _distributed.ProcessGroupGloo(store, rank, size, options)


def flat_of(tensors: Sequence[Tensor]) -> Tensor:
    """The numbers of all ``tensors``, of one dtype, as one tensor [N]."""
    return torch.cat([each.reshape(-1) for each in tensors])


def fill(tensors: Sequence[Tensor], flat: Tensor) -> None:
    """Put the numbers of ``flat_of(tensors)`` into them."""
    parts = torch.split(flat, [each.numel() for each in tensors])
    for each, part in zip(tensors, parts, strict=True):
        each.copy_(part.view(each.shape))


def _given(value: Tensor | None, like: Tensor) -> Tensor:
    """``value``, contiguous if it is large; what changes no sum if there is none."""
    if value is None:
        return torch.full_like(like, NOTHING, requires_grad=False)
    if value.is_sparse:
        raise ConfigError(
            "trainer.devices: got more than 1 and a model with sparse gradients, allowed 1; or make"
            " its embeddings with sparse=False"
        )
    return value.detach().contiguous() if _is_large(like) else value.detach()


def _is_large(like: Tensor) -> bool:
    """Whether values like this are summed where they are. All ranks say the same."""
    return like.device.type == "cpu" and like.is_contiguous() and like.nbytes >= LARGE_BYTES
