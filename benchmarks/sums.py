"""Sums of ranks, which are processes of one thread: by the tree, and by gloo's all-reduce."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import signal
import statistics
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from rhoselect.compute import keep_memory
from rhoselect.ranks.gloo import GlooGroup

FORK = multiprocessing.get_context("fork")
PARTS = 8  # tensors of equal size that make up the gradients
PATIENCE_S = 300.0
Pair = tuple[float, float]


def rows(megabytes: list[float], turns: int) -> list[dict[str, Any]]:
    """Two ranks: medians over the turns, in which both arms follow each other on the same bytes;
    ``ratio`` is the median of those of a turn."""
    found = []
    for size in megabytes:
        pairs = seconds(2, int(size * 1e6 / 4), turns)
        tree_s, gloo_s = map(statistics.median, zip(*pairs, strict=True))
        ratio = statistics.median(tree / gloo for tree, gloo in pairs)
        figures = {"tree_ms": 1e3 * tree_s, "gloo_ms": 1e3 * gloo_s, "ratio": ratio}
        found.append({"megabytes": size, **figures})
    return found


def alone_s(ranks: int, numbers: int, turns: int) -> float:
    """Median seconds of the tree, with nothing else to do."""
    return statistics.median(tree for tree, _ in seconds(ranks, numbers, turns))


def seconds(ranks: int, numbers: int, turns: int) -> list[Pair]:
    """Seconds of sums of ``numbers`` in float32 by the tree and by gloo, as rank 0 sees them."""
    assert threading.active_count() == 1, "only a process of one thread may fork"
    ours, theirs = FORK.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        how = (ranks, Path(folder) / "meeting", numbers, turns, theirs)
        processes = [FORK.Process(target=_rank, args=(rank, *how)) for rank in range(ranks)]
        for process in processes:
            process.start()
        try:
            if not ours.poll(PATIENCE_S):
                raise SystemExit(f"{ranks} ranks do not answer")
            pairs: list[Pair] = json.loads(ours.recv_bytes())
        finally:
            for process in processes:
                process.kill()
                process.join()
    return pairs


def _rank(
    rank: int, ranks: int, meeting: Path, numbers: int, turns: int, answer: Connection
) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with the parent
    torch.set_num_threads(1)
    keep_memory()
    group = GlooGroup(rank, ranks, meeting, PATIENCE_S)
    like = [torch.empty(numbers // PARTS) for _ in range(PARTS)]
    pairs = []
    for _ in range(turns + 1):
        gradients = [torch.ones_like(each) for each in like]
        whole = torch.ones(numbers)
        group.gathered(b"")  # all begin at once
        started = time.perf_counter()
        group.total(gradients, like)
        tree_s = time.perf_counter() - started
        group.gathered(b"")
        started = time.perf_counter()
        group._group.allreduce([whole]).wait()
        pairs.append((tree_s, time.perf_counter() - started))
    group.gathered(b"")
    if rank == 0:
        answer.send_bytes(json.dumps(pairs[1:]).encode())
    time.sleep(PATIENCE_S)  # until it is killed
