"""Code shared by all fits: the small model, its options, and the loop over its epochs."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rhoselect import config as configuration
from rhoselect.compute import resolve_device
from rhoselect.config import Config, TrainerConfig, resolve
from rhoselect.data import Dataset, SplitPoints
from rhoselect.errors import ConfigError, NonFiniteLossError
from rhoselect.inputs.checks import check_model
from rhoselect.inputs.purity import POINTS, check_pure
from rhoselect.models.build import configured_model
from rhoselect.models.numerics import Numerics
from rhoselect.models.replica import Replica
from rhoselect.plan import Plan
from rhoselect.tasks import Task, get_task
from rhoselect.trainer.learner import Learner
from rhoselect.trainer.reading import read_ahead
from rhoselect.types import ForwardOutput, Indices


@dataclass(frozen=True)
class FitOptions:
    """How long a small model is trained.

    It makes ``epochs`` passes over the points it learns from, ``batch`` points a step. The schedule
    of ``trainer`` spans all of them; ``trainer.steps`` does not count. A fit of irreducible losses
    ends early after ``patience`` epochs in a row without a lower loss on the points to score; 0
    means never. ``tokens``: a table of irreducible losses also has those of tokens, which are in
    memory during the fit.
    """

    batch: int = 128
    epochs: int = 3
    patience: int = 0
    tokens: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for what is no number of epochs or points."""
        for name, least in (("batch", 1), ("epochs", 1), ("patience", 0)):
            given = getattr(self, name)
            if not isinstance(given, int) or given < least:
                raise ConfigError(f"{name}: got {given}, allowed whole numbers from {least}")


class FitProgress:
    """Receives the progress of a fit. These methods do nothing; a subclass displays it."""

    def begin(self, models: int, epochs: int, steps: int) -> None:
        """``models`` models are trained in turn, each for ``epochs`` epochs of ``steps`` steps."""

    def step(self) -> None:
        """An optimizer step is done."""

    def epoch(self, epoch: int, loss: float) -> None:
        """``epoch`` (from 1) is done. ``loss`` is a mean in nats: for irreducible losses that of
        the points to score, for a proxy that of the epoch's training batches."""


SILENT = FitProgress()


@dataclass(frozen=True)
class Subset:
    """The points of ``indices`` [N] of a split."""

    points: SplitPoints
    indices: Indices

    @classmethod
    def of(cls, points: SplitPoints) -> Subset:
        """All points of a split."""
        return cls(points, points.indices)

    def steps(self, batch: int) -> int:
        """Optimizer steps of an epoch; a last batch that is not full is left out."""
        return len(self.indices) // batch


@dataclass(frozen=True)
class SmallModel:
    """``network``, untrained, and ``replica``, of the same architecture, which scores in
    ``precision``. Every fit trains a copy of ``network`` for ``task``, on the replica's device.
    ``name`` is its factory's."""

    name: str
    network: nn.Module
    replica: Replica
    precision: str
    task: Task

    @classmethod
    def build(cls, config: Config, dataset: Dataset) -> SmallModel:
        """The model of ``config.model`` for the points of ``dataset``, on ``trainer.device``.
        Raises ModelError, and ConfigError for a device that this process does not see."""
        device = resolve_device(config.trainer.device, "trainer.device")
        network, twin = (
            configured_model(config.model, dataset.input_shape, dataset.classes, config.seed)
            for _ in range(2)
        )
        train = dataset.split("train")
        sample = train.read(train.first(2), device)
        factory, precision = config.model.factory, config.scorer.precision
        task = get_task(config.task)
        check_model(f"model.factory {factory}", task, network.to(device), sample, dataset.classes)
        replica = Replica(twin, Numerics(precision), device, task)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            check_pure(replica, train, POINTS)
        return cls(factory, network, replica, precision, task)

    def learner(
        self, learn: Subset, settings: TrainerConfig, options: FitOptions, seed: int
    ) -> Learner:
        """A learner of a copy of ``network`` on ``learn``, with a schedule over all epochs. Raises
        ConfigError for an optimizer that does not suit the model."""
        steps = options.epochs * learn.steps(options.batch)
        whole = settings.model_copy(update={"steps": steps})
        return Learner(copy.deepcopy(self.network), whole, seed, self.replica.device, self.task)


def fit_config(data: str, model: str, sets: Sequence[str], trainer: Mapping[str, Any]) -> Config:
    """The configuration of a fit: ``data`` is a folder, a URI or the "module:factory" of a Dataset,
    ``model`` a factory, ``sets`` are "SECTION.KEY=VALUE" and ``trainer`` other defaults.

    Scores are float32 unless ``sets`` say otherwise. Raises ConfigError.
    """
    is_factory = ":" in data and "://" not in data and not Path(data).exists()
    tree: dict[str, Any] = {
        "scorer": {"precision": "fp32"},
        "trainer": dict(trainer),
        "data": {"dataset" if is_factory else "path": data},
        "model": {"factory": model},
    }
    return resolve(configuration.apply(tree, sets))


def check_batch(batch: int, points: int, where: str) -> None:
    """Raise ConfigError unless ``where`` has enough points for a batch."""
    if batch > points:
        raise ConfigError(f"batch: got {batch}, allowed at most the {points} of {where}")


def epochs(
    learner: Learner, learn: Subset, options: FitOptions, seed: int, progress: FitProgress
) -> Iterator[tuple[int, float]]:
    """Train for an epoch before each item: its number (from 1) and its mean training loss in nats.

    Raises NonFiniteLossError.
    """
    steps = learn.steps(options.batch)
    plan = Plan(seed, len(learn.indices), options.batch, options.batch)
    for epoch in range(1, options.epochs + 1):
        losses, numbers = [], range((epoch - 1) * steps, epoch * steps)
        parts = (learn.indices[plan.indices(plan.window(step))] for step in numbers)
        for step, batch in zip(
            numbers, read_ahead(learn.points, parts, learner.device), strict=True
        ):
            losses.append(learner.update(batch, None, step).loss.item())
            check_finite(f"training loss at step {step}", losses[-1])
            progress.step()
        yield epoch, math.fsum(losses) / steps


def outputs(replica: Replica, scored: Subset, batch: int) -> Iterator[ForwardOutput]:
    """Forwards of ``batch`` points of ``scored`` each, as they are and not augmented, in index
    order."""
    starts = range(0, len(scored.indices), batch)
    parts = (scored.indices[start : start + batch] for start in starts)
    return map(replica, read_ahead(scored.points, parts, replica.device))


def check_finite(what: str, loss: float) -> None:
    """Raise NonFiniteLossError unless ``loss`` is finite."""
    if not math.isfinite(loss):
        raise NonFiniteLossError(
            f"small model: {what}: got {loss}, allowed a finite one; lower trainer.lr or set"
            " trainer.clip_norm"
        )
