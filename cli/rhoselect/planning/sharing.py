"""What several devices that train cost: the share of a step that each computes, and what they tell
each other. Seconds are medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rhoselect.compute import resolve_device, threads
from rhoselect.config import Config
from rhoselect.devices import of_rank, trainer_device
from rhoselect.errors import ConfigError
from rhoselect.inputs import RunInputs
from rhoselect.planning.model import Exchange
from rhoselect.ranks.fast import group_of
from rhoselect.ranks.group import Gradients, Work
from rhoselect.selection.scoring import CPU
from rhoselect.trainer.build import new_learner
from rhoselect.trainer.learner import Learner

MOST_RANKS = 16
SHARE_S = 1.5  # what the steps of a share may take, once there are three


class Silent:
    """In place of a `Group`: its first rank, to which the others send nothing."""

    def __init__(self, size: int) -> None:
        self.rank, self.size = 0, size

    def total(self, values: Gradients, like: Sequence[Tensor]) -> Gradients:
        """The values of this rank."""
        return values

    def gathered(self, payload: bytes) -> list[bytes]:
        """Those of this rank."""
        return [payload]

    def call(self, work: Work, step: int = 0) -> None:
        """Nothing is asked of the others."""


def shares(inputs: RunInputs) -> tuple[float, ...]:
    """Seconds of a step, the reading of its batch included, of one of 2, 4, 8, … ranks, as far as
    they divide a batch into parts of two points or more, which BatchNorm needs."""
    config, found, ranks = inputs.config, list[float](), 2
    n_b, device = config.selection.n_b, resolve_device(config.trainer.device, "trainer.device")
    if config.selection.tokens < 1 or config.selection.max_tokens:  # these take whole batches
        return ()
    with threads(config.trainer.threads):
        while ranks <= min(MOST_RANKS, n_b // 2) and n_b % ranks == 0:
            step = partial(uniform_step, inputs, _learner_of(inputs, ranks, device))
            found.append(median_seconds(step, SHARE_S))
            ranks *= 2
    return tuple(found)


def alone(inputs: RunInputs) -> RunInputs:
    """The same run without a proxy."""
    scorer = inputs.config.scorer.model_copy(update={"proxy": ""})
    return replace(inputs, config=inputs.config.model_copy(update={"scorer": scorer}))


def _learner_of(inputs: RunInputs, ranks: int, device: torch.device) -> Learner:
    """The learner of one of ``ranks``, without the others and a proxy."""
    trainer = inputs.config.trainer
    parts = {"micro_batches": max(trainer.micro_batches, ranks)}
    config = inputs.config.model_copy(update={"trainer": trainer.model_copy(update=parts)})
    learner = new_learner(alone(replace(inputs, config=config)), device)
    learner.join(Silent(ranks))
    return learner


def uniform_step(inputs: RunInputs, learner: Learner, step: int) -> None:
    """Read the batch that uniform selection takes at ``step``, and learn from it."""
    plan = inputs.plan
    positions = plan.window(step)[: inputs.config.selection.n_b]
    indices, epochs = plan.indices(positions), plan.epochs(positions)
    batch = inputs.train.read(indices, learner.device, epochs)
    learner.update(batch, None, step).loss.item()  # waits for the device


def exchanged(
    inputs: RunInputs, rank: int, meeting: str, numbers: int, beside: int, scores: int
) -> Exchange:
    """What one of two ranks finds, which meet at ``meeting`` and sum as those of the run: for
    gradients of so many ``numbers`` in float32, for those ``beside`` them, of a proxy, and for
    ``scores`` bytes. Raises LostRankError."""
    two = {"trainer": inputs.config.trainer.model_copy(update={"devices": 2})}
    config = inputs.config.model_copy(update=two)
    device, group = _device(config, rank), group_of(config, rank, Path(meeting))
    times = 5 if numbers > 1e7 else 20

    def summed_s(count: int) -> float:
        values = [torch.zeros(count, device=device)]
        return median_seconds(lambda _: group.total(values, values), 0.0, times)

    message_s = summed_s(1)
    sum_s, proxy_sum_s = (
        max(0.0, summed_s(count) - message_s) if count else 0.0 for count in (numbers, beside)
    )
    gather_s = median_seconds(lambda _: group.gathered(bytes(scores)), 0.0, times)
    group.leave()
    return Exchange(message_s, sum_s, gather_s, proxy_sum_s, config.trainer.reduce == "fast")


def _device(config: Config, rank: int) -> torch.device:
    """Where one of two ranks has its gradients: on a GPU of its own. On one GPU both have them
    there; NCCL refuses that, so gloo sums theirs on the CPU, which takes longer."""
    try:
        return trainer_device(of_rank(config, rank))
    except ConfigError:
        return trainer_device(config) if config.trainer.reduce == "tree" else CPU


def median_seconds(call: Callable[[int], object], seconds: float, least: int = 3) -> float:
    """The median of ``call`` in as many calls as take ``seconds``, at least ``least``, after a
    first one; it is told their number."""
    call(0)
    times = list[float]()
    while len(times) < least or sum(times) < seconds:
        started = time.perf_counter()
        call(len(times) + 1)
        times.append(time.perf_counter() - started)
    return statistics.median(times)
