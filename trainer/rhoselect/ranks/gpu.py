"""Waits for what NCCL does on a GPU: torch's own have no end if a rank is lost, so this asks."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from rhoselect.errors import LostRankError

POLL_S = 1e-4
PATIENCE = 2.0  # times the longest wait of a rank: then torch ends the process, with a trace


def settle(done: Callable[[], bool], check: Callable[[], object], timeout_s: float) -> None:
    """Wait until ``done``. Raises LostRankError after ``timeout_s``, and what ``check`` raises."""
    deadline = time.monotonic() + timeout_s
    while not done():
        check()
        if time.monotonic() > deadline:
            raise LostRankError(f"another rank did not come for {timeout_s:g} s")
        time.sleep(POLL_S)


def work_on(device: torch.device) -> Callable[[], bool]:
    """Whether a GPU has done all that this thread has given it until now."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event.query
