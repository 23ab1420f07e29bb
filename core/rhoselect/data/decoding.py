"""Encoded images of an Arrow data set: decoded by the threads of the caller, the last ones kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from math import prod
from threading import Lock

import numpy as np
import torch

from rhoselect.data.gathering import blobs_of
from rhoselect.data.images import Images, decode
from rhoselect.data.manifest import Inputs
from rhoselect.data.shards import Located

KEPT_BYTES = 1 << 30  # at most


class Decoder:
    """Decodes images of the data set at ``location``; several threads may use it."""

    def __init__(self, described: Inputs, location: str) -> None:
        self._shape, self._encoding, self._location = described.shape, described.encoding, location
        self._kept, self._most, self._lock = dict[int, Images](), 0, Lock()

    def keep(self, count: int) -> None:
        """From now on keep the last ``count`` images that were decoded, at most KEPT_BYTES."""
        self._most = min(count, KEPT_BYTES // prod(self._shape))

    def __call__(self, located: Located) -> Images:
        """Images [C, *shape] uint8 of the ascending ``indices``, with as many threads as the caller
        computes with. Raises DataError, which names the first broken one."""
        result = np.empty((len(located.indices), *self._shape), np.uint8)

        def fill(place: int) -> None:
            index = int(located.indices[place])
            block = next(block for block, _, end in located.pieces if place < end)
            where = f"{self._location}: point {index}"
            content = blobs_of(block)[index - block.start]
            assert self._encoding is not None, "raw points are not decoded"
            result[place] = decode(content, self._encoding, self._shape, where)

        missing = self._take_kept(located, result)
        threads = min(torch.get_num_threads(), len(missing))
        if threads > 1:
            with ThreadPoolExecutor(threads, "decoder") as pool:
                list(pool.map(fill, missing))
        else:
            for place in missing:
                fill(place)
        self._keep(located, result, missing)
        return result

    def _take_kept(self, located: Located, result: Images) -> list[int]:
        """Copy images that are kept to their places. Returns the places of all others."""
        missing = []
        with self._lock:
            for place, index in enumerate(located.indices.tolist()):
                image = self._kept.get(index)
                if image is None:
                    missing.append(place)
                else:
                    result[place] = image
        return missing

    def _keep(self, located: Located, result: Images, places: list[int]) -> None:
        """Keep images, as parts of the array that nothing changes, in place of the oldest ones."""
        with self._lock:
            if self._most:
                self._kept |= {int(located.indices[place]): result[place] for place in places}
            for oldest in list(islice(self._kept, max(0, len(self._kept) - self._most))):
                del self._kept[oldest]
