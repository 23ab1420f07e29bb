"""A snapshot on its way into a replica: how long its bytes took to come."""

from __future__ import annotations

import time

from rhoselect.snapshots.base import Pieces


class Fetch:
    """Passes pieces on and keeps account: ``seconds`` that they were waited for, their ``bytes``.

    What they are used for in between, which is the copying, does not count.
    """

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self.seconds = 0.0
        self.bytes = 0

    def pieces(self) -> Pieces:
        """The pieces, once."""
        asked = time.perf_counter()
        for name, tensor in self._pieces:
            self.seconds += time.perf_counter() - asked
            self.bytes += tensor.nbytes
            yield name, tensor
            asked = time.perf_counter()
        self.seconds += time.perf_counter() - asked
