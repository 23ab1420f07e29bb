"""A run's checked inputs, and the networks that are made from them.

Learner and replicas are built here alone, wherever they run: that is why their bits agree.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from rhoselect.config import Config
from rhoselect.data import Dataset, SplitPoints
from rhoselect.models.build import configured_model
from rhoselect.models.reference import ReferenceFile
from rhoselect.plan import Plan
from rhoselect.scorer.forward import Replica
from rhoselect.selection import Scoring
from rhoselect.trainer.learner import Learner


@dataclass(frozen=True)
class Prepared:
    """A run's checked inputs."""

    config: Config
    dataset: Dataset
    train: SplitPoints
    test: SplitPoints
    plan: Plan
    scoring: Scoring
    reference: ReferenceFile | None = None

    @property
    def inputs_sha256(self) -> str:
        """Hash of the data's fingerprint, the first weights' file, and the irreducible losses or
        core-set in use."""
        digest = hashlib.sha256(self.dataset.fingerprint.encode())
        if self.scoring.il is not None:
            digest.update(self.scoring.il.values.data)
        if self.scoring.core_set is not None:
            digest.update(self.scoring.core_set.members.data)
        if self.config.model.weights is not None:
            with Path(self.config.model.weights).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        if self.reference is not None:
            digest.update(self.reference.sha256.encode())
        return digest.hexdigest()


def new_model(prepared: Prepared) -> torch.nn.Module:
    """The run's model with its initial weights, on the CPU."""
    config, dataset = prepared.config, prepared.dataset
    return configured_model(config.model, dataset.input_shape, dataset.classes, config.seed)


def _reference_model(prepared: Prepared) -> torch.nn.Module:
    assert prepared.reference is not None, "checked at start"
    return prepared.reference.build(prepared.dataset.input_shape, prepared.dataset.classes)


def new_learner(prepared: Prepared, device: torch.device) -> Learner:
    """The learner before its first step, with the second network if the run has one."""
    config, reference = prepared.config, None
    if prepared.reference is not None:
        lr = config.trainer.lr * config.il.update_lr_factor
        slower = config.trainer.model_copy(update={"lr": lr})
        reference = Learner(_reference_model(prepared), slower, config.seed, device)
    return Learner(new_model(prepared), config.trainer, config.seed, device, reference)


def new_replica(prepared: Prepared, bn: str, device: torch.device) -> Replica:
    """A replica that scores: it computes what the score function needs. A second network is
    evaluated with running statistics, as when tables are made."""
    scorer, reference = prepared.config.scorer, None
    if prepared.reference is not None:
        second = _reference_model(prepared)
        reference = Replica(second, scorer.precision, "running", device, scorer.channels_last)
    return Replica(
        new_model(prepared),
        scorer.precision,
        bn,
        device,
        scorer.channels_last,
        prepared.scoring.needs,
        prepared.config.seed,
        reference,
        scorer.fold_batchnorm,
    )


def bare_replica(prepared: Prepared, bn: str, device: torch.device) -> Replica:
    """A replica of the model alone."""
    scorer = prepared.config.scorer
    return Replica(new_model(prepared), scorer.precision, bn, device, scorer.channels_last)
