"""Points that are read by a thread of its own while the caller computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import nullcontext

import torch

from rhoselect.compute import single_threaded_pool
from rhoselect.types import Batch, Indices, Points

READ_AHEAD = 2  # batches that are read during the work on one


def read_ahead(
    points: Points, parts: Iterable[Indices], device: torch.device, reader: Executor | None = None
) -> Iterator[Batch]:
    """The points of each of ``parts`` on ``device``, as they are and not augmented.

    Precision and gradient mode of the caller's thread do not reach the code that reads. A caller
    that reads again and again gives the ``reader``, a thread that stays: the C library hands the
    next of its heaps (arenas, eight a core) to each new thread, and keeps the free memory of each.
    """
    with single_threaded_pool("reader") if reader is None else nullcontext(reader) as pool:
        asked: deque[Future[Batch]] = deque()
        for indices in parts:
            asked.append(pool.submit(points.read, indices, device))
            if len(asked) > READ_AHEAD:
                yield asked.popleft().result()
        while asked:
            yield asked.popleft().result()
