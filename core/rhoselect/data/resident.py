"""All points of a split in the memory of one device: a read there takes rows of one tensor."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rhoselect.data.base import Labels, Span
from rhoselect.data.manifest import Array
from rhoselect.errors import ConfigError
from rhoselect.types import Indices

PIECE_BYTES = 64 << 20  # read from the disk at a time

Stored = Callable[[Indices], tuple[Array, Labels]]
"""Inputs [C, ...] as the data set holds them, and labels [C], of C points."""


class Resident:
    """Inputs [N, ...] and labels [N] of the N points of ``span`` on ``device``, as ``stored`` gives
    them. Raises ConfigError if they do not fit."""

    def __init__(self, span: Span, device: torch.device, stored: Stored) -> None:
        self._start, stop = span
        points = stop - self._start
        like, _ = stored(np.arange(self._start, self._start + 1))
        _check_room(points * (like.nbytes + np.int64().nbytes), device)
        first = torch.from_numpy(like)
        self._inputs = torch.empty((points, *first.shape[1:]), dtype=first.dtype, device=device)
        self._labels = torch.empty(points, dtype=torch.int64, device=device)
        rows = max(1, PIECE_BYTES // max(1, like.nbytes))
        for begin in range(0, points, rows):
            end = min(begin + rows, points)
            inputs, labels = stored(np.arange(self._start + begin, self._start + end))
            self._inputs[begin:end] = torch.from_numpy(inputs)
            self._labels[begin:end] = torch.from_numpy(labels)

    def read(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Inputs [C, ...] and labels [C] of points [C], in tensors of their own."""
        rows = torch.from_numpy(indices - self._start)
        if self._labels.is_cuda:
            rows = rows.pin_memory().to(self._labels.device, non_blocking=True)
        return self._inputs.index_select(0, rows), self._labels.index_select(0, rows)


def _check_room(wanted: int, device: torch.device) -> None:
    if wanted > (free := _free_bytes(device)):
        raise ConfigError(
            f"data.resident: got 'device', but the points take {wanted:,} bytes and {device} has"
            f" {free:,} free, allowed points that fit; set '' to read them from the disk"
        )


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with suppress(OSError):
        table = Path("/proc/meminfo").read_text("utf-8")
        if found := re.search(r"MemAvailable:\s*(\d+) kB", table):
            return int(found[1]) << 10
    return sys.maxsize  # not Linux: who knows
