"""What D devices can do in a step: k train and D - k score, all do both, or all train on uniform
batches. Each process has a device of its own.

A training step of k ranks takes what the share of one takes, and the exchange of gradients::

    train(k) = share(k) + log2(k) message + 2 (1 - 1/k) sum

*split*: train(k), then weights to the scorers, which score with the lead. *colocated*: train(D),
then every rank scores a D-th of the chunks with its own weights. Of scores, or of the lead's picks,
k ranks hear in log2(k) times what two need. Ranks are powers of two, and devices may idle.
``trainer.micro_batches`` is at least the number of ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from rhoselect.planning.model import Parts, own_devices, seconds_of, step_seconds

Mode = Literal["split", "colocated"]


@dataclass(frozen=True)
class Layout:
    """``ranks`` train. Split: ``workers`` others score, and the lead; colocated: the ranks do."""

    mode: Mode
    ranks: int
    workers: int
    step_s: float

    def __str__(self) -> str:
        if self.mode == "colocated":
            return f"{self.ranks} do both"
        return f"{self.ranks} train, {self.workers} score"

    def options(self, micro_batches: int) -> str:
        """Those of ``rhoctl train``, where ``trainer.micro_batches`` has been so many."""
        words = [f"--workers {self.workers}"]
        if self.ranks > 1:
            words.append(f"--set trainer.devices={self.ranks} --set cluster.mode={self.mode}")
        if self.ranks > micro_batches:
            words.append(f"--set trainer.micro_batches={self.ranks}")
        return " ".join(words)


def uniform_seconds(parts: Parts, devices: int) -> float:
    """Seconds of a step that takes no scores, on ``devices``. Between measured shares it is linear
    in the share; below the smallest one it stays."""
    own_s, exchange = _own_seconds(parts, devices), parts.exchange
    return own_s + math.log2(devices) * exchange.message_s + 2 * (1 - 1 / devices) * exchange.sum_s


def _own_seconds(parts: Parts, devices: int) -> float:
    """Seconds of what one of the devices computes of a step."""
    measured_s = [parts.train_s, *parts.share_s]
    shares = [2.0**-n for n in range(len(measured_s))]
    return float(np.interp(1 / devices, shares[::-1], measured_s[::-1]))


def _in_ranks(parts: Parts, ranks: int) -> Parts:
    """The parts of a step that ``ranks`` train, each on a device of its own. A proxy's step gets
    shorter as the model's does; its gradients add nothing, as they are small."""
    told_s = math.log2(ranks) * parts.exchange.gather_s
    proxy_s = parts.proxy_s and parts.proxy_s * _own_seconds(parts, ranks) / parts.train_s
    train_s = uniform_seconds(parts, ranks) + told_s
    return own_devices(replace(parts, train_s=train_s, proxy_s=proxy_s))


def split_seconds(parts: Parts, devices: int, ranks: int) -> float:
    """Seconds of a step if ``ranks`` of ``devices`` train; the others are told the points."""
    return step_seconds(_in_ranks(parts, ranks), devices - ranks)


def colocated_seconds(parts: Parts, ranks: int) -> float:
    """Seconds of a step if all of ``ranks`` train and score."""
    return seconds_of(_in_ranks(parts, ranks), ranks, parts.within)


def layouts(parts: Parts, devices: int) -> list[Layout]:
    """What at most ``devices`` can do that select. Colocated on one: all is done in one process."""
    ranks = [2**n for n in range(len(parts.share_s) + 1) if 2**n <= devices]
    return [
        *(
            Layout("split", k, devices - k, split_seconds(parts, devices, k))
            for k in ranks
            if k < devices
        ),
        *(Layout("colocated", k, 0, colocated_seconds(parts, k)) for k in ranks),
    ]


def row(parts: Parts, devices: int, micro_batches: int) -> dict[str, Any]:
    """The layouts of ``devices`` in milliseconds a step by ranks, and the best. ``break_even``: how
    many times fewer steps it must need than uniform selection on as many devices as help."""
    found = layouts(parts, devices)
    uniform_s = min(uniform_seconds(parts, count) for count in range(1, devices + 1))
    best = min(found, key=lambda each: each.step_s)
    modes: tuple[Mode, ...] = ("split", "colocated")
    times = {m: {str(e.ranks): 1e3 * e.step_s for e in found if e.mode == m} for m in modes}
    return {
        "devices": devices,
        "uniform_ms": 1e3 * uniform_s,
        "split_ms": times["split"],
        "colocated_ms": times["colocated"],
        "best": {"mode": best.mode, "ranks": best.ranks, "workers": best.workers},
        "layout": str(best),
        "options": best.options(micro_batches),
        "step_ms": 1e3 * best.step_s,
        "break_even": best.step_s / uniform_s,
    }


def chosen(chunks: int, ranks: int, workers: int, trainer_scores: bool) -> tuple[Mode, str]:
    """What ``cluster.mode = "auto"`` stands for in a run with ``ranks`` > 1 and ``workers`` > 0 at
    lag 0 on one machine, and why.

    Nothing is measured, so that the answer is always the same. The two differ in who scores, and in
    that split sends weights: colocated is at least as fast, on fewer devices, if its ranks take no
    more chunks each, however long a forward takes. Else times decide, and the workers that were
    asked for are started.
    """
    scoring = workers + trainer_scores
    together, apart = (math.ceil(chunks / processes) for processes in (ranks, scoring))
    devices = f"each of {ranks} devices scores up to {together} of the {chunks} chunks of a window"
    processes = f"each of {scoring} processes with --workers {workers} up to {apart}"
    if together <= apart:
        why = f"without workers: {devices} and sends no weights, {processes}"
        return "colocated", f"{why}; set cluster.mode = 'split' to have them"
    return "split", f"as {devices}, {processes}; rhoctl plan measures whether that is faster"
