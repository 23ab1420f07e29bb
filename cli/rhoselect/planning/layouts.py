"""What D devices can do in a step: k train and D - k score, all do both, k do both beside D - k
that score, or all train on uniform batches. Each process has a device of its own.

A training step of k ranks takes what the share of one takes, and the exchange of gradients::

    train(k) = share(k) + turns message + 2 (1 - 1/k) sum

in log2(k) turns of the tree, or in k - 1 round the ring of a library (``trainer.reduce``). A
proxy's gradients are exchanged after its own step.

*split*: train(k), then weights to the scorers, which score with the lead. *colocated*: train(D),
then every rank scores a D-th of the chunks with its own weights. Of scores, or of the lead's picks,
k ranks hear in log2(k) times what two need. *beside*: train(k), weights to the scorers, which score
with all k ranks; then each rank pops the window from the queue's server, which serves one after the
other. Ranks are powers of two, and devices may idle. ``trainer.micro_batches`` is at least the
number of ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from rhoselect.planning.model import Exchange, Parts, own_devices, seconds_of, step_seconds

Mode = Literal["split", "colocated"]


@dataclass(frozen=True)
class Layout:
    """``ranks`` train. Split: ``workers`` others score, and the lead; colocated: the ranks and the
    workers do."""

    mode: Mode
    ranks: int
    workers: int
    step_s: float

    def __str__(self) -> str:
        do = "do both" if self.mode == "colocated" else "train"
        return f"{self.ranks} {do}" + (f", {self.workers} score" if self.workers else "")

    @property
    def kind(self) -> str:
        """Its name above."""
        return "beside" if self.mode == "colocated" and self.workers else self.mode

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
    return _own_seconds(parts, devices) + _summed(parts.exchange, devices, parts.exchange.sum_s)


def _summed(exchange: Exchange, ranks: int, sum_s: float) -> float:
    """Seconds in which ``ranks`` sum what takes two of them ``sum_s``, and a message."""
    turns = ranks - 1 if exchange.ring else math.log2(ranks)
    return turns * exchange.message_s + 2 * (1 - 1 / ranks) * sum_s


def _own_seconds(parts: Parts, devices: int) -> float:
    """Seconds of what one of the devices computes of a step."""
    measured_s = [parts.train_s, *parts.share_s]
    shares = [2.0**-n for n in range(len(measured_s))]
    return float(np.interp(1 / devices, shares[::-1], measured_s[::-1]))


def _in_ranks(parts: Parts, ranks: int, told: bool = True) -> Parts:
    """The parts of a step that ``ranks`` train, each on a device of its own; ``told``: they tell
    each other scores, or hear of the lead's picks. A proxy's step gets shorter as the model's does.
    """
    exchange, proxy_s = parts.exchange, parts.proxy_s
    if proxy_s:
        proxy_s *= _own_seconds(parts, ranks) / parts.train_s
        proxy_s += _summed(exchange, ranks, exchange.proxy_sum_s)
    train_s = uniform_seconds(parts, ranks) + told * math.log2(ranks) * exchange.gather_s
    return own_devices(replace(parts, train_s=train_s, proxy_s=proxy_s))


def split_seconds(parts: Parts, devices: int, ranks: int) -> float:
    """Seconds of a step if ``ranks`` of ``devices`` train; the others are told the points."""
    return step_seconds(_in_ranks(parts, ranks), devices - ranks)


def colocated_seconds(parts: Parts, ranks: int) -> float:
    """Seconds of a step if all of ``ranks`` train and score."""
    return seconds_of(_in_ranks(parts, ranks), ranks, parts.within)


def beside_seconds(parts: Parts, devices: int, ranks: int) -> float:
    """Seconds of a step if ``ranks`` of ``devices`` train, and all score."""
    between = replace(parts.between, window_s=ranks * parts.between.window_s)
    scoring = devices - ranks + ranks * parts.trainer_scores
    return seconds_of(_in_ranks(parts, ranks, told=False), scoring, between)


def layouts(parts: Parts, devices: int) -> list[Layout]:
    """What at most ``devices`` can do that select. Colocated on one: all is done in one process."""
    ranks = [2**n for n in range(len(parts.share_s) + 1) if 2**n <= devices]
    some = [k for k in ranks if k < devices]
    return [
        *(Layout("split", k, devices - k, split_seconds(parts, devices, k)) for k in some),
        *(
            Layout("colocated", k, devices - k, beside_seconds(parts, devices, k))
            for k in some
            if k > 1  # one rank is a trainer that scores
        ),
        *(Layout("colocated", k, 0, colocated_seconds(parts, k)) for k in ranks),
    ]


def row(parts: Parts, devices: int, micro_batches: int) -> dict[str, Any]:
    """The layouts of ``devices`` in milliseconds a step by ranks, and the best. ``break_even``: how
    many times fewer steps it must need than uniform selection on as many devices as help."""
    found = layouts(parts, devices)
    uniform_s = min(uniform_seconds(parts, count) for count in range(1, devices + 1))
    best = min(found, key=lambda each: each.step_s)
    times = {
        f"{kind}_ms": {str(e.ranks): 1e3 * e.step_s for e in found if e.kind == kind}
        for kind in ("split", "beside", "colocated")
    }
    return {
        "devices": devices,
        "uniform_ms": 1e3 * uniform_s,
        **times,
        "best": {"mode": best.mode, "ranks": best.ranks, "workers": best.workers},
        "layout": str(best),
        "options": best.options(micro_batches),
        "step_ms": 1e3 * best.step_s,
        "break_even": best.step_s / uniform_s,
    }


def chosen(chunks: int, ranks: int, workers: int, trainer_scores: bool) -> tuple[Mode, int, str]:
    """What ``cluster.mode = "auto"`` stands for in a run with ``ranks`` > 1 and ``workers`` > 0 at
    lag 0 on one machine, with how many workers, and why.

    Nothing is measured, so that the answer is always the same: the process with most chunks of a
    window decides, as a forward takes longer than messages. Ranks that score without workers send
    no weights, so they do it if workers would not take a chunk from them. Else the workers that
    were asked for are started, and the ranks score beside them if that takes chunks from these.
    """
    scoring = {"colocated": ranks, "beside": workers + ranks * trainer_scores}
    scoring["split"] = workers + trainer_scores
    most = {kind: math.ceil(chunks / processes) for kind, processes in scoring.items()}
    of_all = f"of the {chunks} chunks of a window"
    if most["colocated"] <= most["beside"]:
        why = f"without workers: each of {ranks} devices scores up to {most['colocated']} {of_all}"
        why += f" and sends no weights, with --workers {workers} up to {most['beside']}"
        return "colocated", 0, f"{why}; set cluster.mode = 'split' to have them"
    mode: Mode = "colocated" if most["beside"] < most["split"] else "split"
    why = f"as {scoring['split']} processes would score up to {most['split']} {of_all} each, and"
    why += f" {scoring['beside']}, with all devices, up to {most['beside']}"
    return mode, workers, f"{why}; rhoctl plan measures what is fastest"
