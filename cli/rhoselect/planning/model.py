"""What a step of a run will take, from measured parts: the arithmetic of ``rhoctl plan``.

At lag 0 a step is a line of things that wait for each other::

    train → publish, load → score the chunks of the busiest process → pop [→ re-score a shortlist]

Points of the next ``prefetch`` chunks of a process are read while it trains or waits; the others
while a forward runs, so a read counts only where it is slower than a forward. Scores are pushed
beside the next forward, so only the last push counts. Where processes share cores, all chunks
together take at least their CPU time over the cores, and a forward is slower by a measured factor.

With several ``trainer.devices`` see ``layouts``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

WORKERS = (0, 1, 2, 4, 8, 16, 32)
GAIN = 0.01
"""More workers are not worth having if they shorten a step by no more than this share."""
OFTEN, SELDOM = 1.5, 3.0
"""Times fewer steps that RHO-LOSS needs nearly always, and only on noisy or redundant data."""


@dataclass(frozen=True)
class Messages:
    """Seconds that messages cost: ``publish_s`` from the end of a step until weights are loaded,
    ``claim_s`` and ``push_s`` a chunk (with its scores from its losses), ``window_s`` a window."""

    publish_s: float
    claim_s: float
    push_s: float
    window_s: float


@dataclass(frozen=True)
class Exchange:
    """Seconds that two ranks take to sum one number (``message_s``), how much longer they take for
    all gradients (``sum_s``) and for a proxy's (``proxy_sum_s``), and those to tell each other
    their scores (``gather_s``). ``ring``: sums go round all ranks, as a library's do, not up a
    tree."""

    message_s: float
    sum_s: float
    gather_s: float
    proxy_sum_s: float = 0.0
    ring: bool = False


@dataclass(frozen=True)
class Parts:
    """The measured parts of a step, in seconds, and how they are put together.

    ``train_s``: a training step on n_b points, their reading included; ``proxy_s``: that of a proxy
    on the same; ``rescore_s``: a shortlist, re-scored by the trainer. A chunk: ``read_s``, and
    ``forward_s`` with ``forward_cpu_s`` of it on a core. ``load_s``: a snapshot into a replica.
    ``within``: messages within one process (W = 0), ``between``: between processes. ``cores``: how
    many processes compute at once without taking turns, None if each has a device of its own;
    ``slowdown``: of a forward when that many do. ``start_s``: until other processes are ready, once
    in a run of ``steps``. ``share_s``: a training step of one of 2, 4, 8, … ranks, without the
    ``exchange`` between them.
    """

    chunks: int
    prefetch: int
    trainer_scores: bool
    train_s: float
    forward_s: float
    forward_cpu_s: float
    read_s: float
    load_s: float
    within: Messages
    between: Messages
    cores: int | None
    slowdown: float
    start_s: float = 0.0
    steps: int = 1
    share_s: tuple[float, ...] = ()
    exchange: Exchange = Exchange(0.0, 0.0, 0.0)
    proxy_s: float = 0.0
    rescore_s: float = 0.0


def step_seconds(parts: Parts, workers: int) -> float:
    """Expected seconds of a step at lag 0 with ``workers`` scorers; 0: all in one process."""
    if workers == 0:
        return seconds_of(parts, 1, parts.within)
    return seconds_of(parts, workers + parts.trainer_scores, parts.between)


def seconds_of(parts: Parts, processes: int, messages: Messages) -> float:
    """The same with so many ``processes`` that score."""
    at_once = min(processes, parts.chunks, parts.cores or processes)
    slowdown = 1.0
    if parts.cores is not None and parts.cores > 1:
        slowdown += (parts.slowdown - 1) * (at_once - 1) / (parts.cores - 1)
    read_s = parts.read_s + messages.claim_s
    chunk_s = max(parts.forward_s * slowdown, messages.push_s)
    each = math.ceil(parts.chunks / processes)
    ahead = min(each, parts.prefetch)
    trainer_s = parts.train_s + parts.proxy_s + parts.rescore_s
    late_s = max(0.0, ahead * read_s - parts.train_s - parts.proxy_s)
    score_s = ahead * chunk_s + (each - ahead) * max(chunk_s, read_s)
    publish_s = messages.publish_s
    if parts.cores is not None:
        work_s = parts.forward_cpu_s * slowdown + messages.push_s
        score_s = max(score_s, parts.chunks * work_s / at_once)
        publish_s += parts.load_s * max(0.0, processes / parts.cores - 1)
    return trainer_s + publish_s + late_s + score_s + messages.push_s + messages.window_s


def enough_workers(parts: Parts) -> int:
    """W*: the fewest workers beyond which no number shortens the run by more than ``GAIN``, the
    start of their processes included."""
    seconds = [step_seconds(parts, workers) for workers in range(parts.chunks + 1)]
    seconds[1:] = [each + parts.start_s / parts.steps for each in seconds[1:]]
    best_s = seconds[-1]
    enough = parts.chunks
    for workers in range(parts.chunks, -1, -1):
        best_s = min(best_s, seconds[workers])
        if seconds[workers] <= (1 + GAIN) * best_s:
            enough = workers
    return enough


def own_devices(parts: Parts) -> Parts:
    """The same parts where every process has a device of its own, like the measured one."""
    return replace(parts, cores=None, slowdown=1.0)


def rows(parts: Parts) -> list[dict[str, Any]]:
    """A row a number of workers. ``kept_fraction`` is a uniform step's time over RHO-LOSS's;
    ``break_even``, its inverse, how many times fewer steps RHO-LOSS must need to pay."""
    table = []
    for workers in WORKERS:
        step_s = step_seconds(parts, workers)
        table.append(
            {
                "workers": workers,
                "step_ms": 1e3 * step_s,
                "own_devices_ms": 1e3 * step_seconds(own_devices(parts), workers),
                "kept_fraction": parts.train_s / step_s,
                "break_even": step_s / parts.train_s,
            }
        )
    return table


def limit(parts: Parts, workers: int) -> str:
    """What of a step, beyond training, takes longest."""
    messages = parts.between if workers else parts.within
    step_s = step_seconds(parts, workers)
    messages_s = messages.publish_s + messages.window_s + messages.push_s
    free = replace(parts, read_s=0.0)
    reading_s = step_s - step_seconds(free, workers)
    scoring_s = step_s - parts.train_s - parts.proxy_s - messages_s - reading_s
    shares = {
        "scoring": scoring_s,
        "training the proxy": parts.proxy_s,
        "publishing and the queue": messages_s,
        "reading data": reading_s,
    }
    return max(shares, key=lambda name: shares[name])


def verdict(parts: Parts, weak: bool = False) -> str:
    """Worth it or not, and why, in a few sentences; ``weak``: the irreducible losses are."""
    workers = enough_workers(parts)
    step_s = step_seconds(parts, workers)
    ratio = step_s / parts.train_s
    facts = (
        f"With --workers {workers} a step takes {1e3 * step_s:.1f} ms against"
        f" {1e3 * parts.train_s:.1f} ms of a uniform one, so RHO-LOSS pays if it needs {ratio:.2f}"
        f" times fewer steps; what costs most is {limit(parts, workers)}."
    )
    if weak:
        judgement = "Doubtful with these irreducible losses: try rhoctl compare first."
    elif ratio <= OFTEN:
        judgement = "Worth it."
    elif ratio <= SELDOM:
        judgement = "Worth it on noisy or redundant data, not on clean data."
    else:
        judgement = "Not worth it here."
    own = own_devices(parts)
    own_workers = enough_workers(own)
    own_ratio = step_seconds(own, own_workers) / parts.train_s
    advice = ""
    if own_ratio < ratio / (1 + GAIN):
        advice = (
            f" The cores of this machine are the limit: {own_workers} workers with a device each"
            f" would bring the {ratio:.2f} down to {own_ratio:.2f}."
        )
    elif workers == 0:
        advice = (
            f" More processes would not make this run faster; they would start in"
            f" {parts.start_s:.0f} s."
        )
    return f"{judgement} {facts}{advice}"
