"""The inputs of a run as one object, and the networks that are made from them.

Every learner and replica of a run is made here, in whatever process it runs. This is why their bits
agree.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from rhoselect.config import Config
from rhoselect.config.sections import ModelConfig
from rhoselect.data import Dataset, SplitPoints
from rhoselect.errors import ModelError
from rhoselect.models.build import configured_model, embedded_ids
from rhoselect.models.frozen import NOTHING, Frozen
from rhoselect.models.numerics import BatchNormMode, Numerics
from rhoselect.models.reference import ReferenceFile
from rhoselect.models.replica import Replica
from rhoselect.plan import Plan
from rhoselect.selection import Scoring
from rhoselect.selection.tokens import TokenSelection
from rhoselect.tasks import Task
from rhoselect.types import PROXY, REFERENCE


@dataclass(frozen=True)
class SelectionInputs:
    """What selection works on: the checked configuration, the candidates, their plan and how they
    are scored. ``classes`` is 0 where the points have none; ``task`` is what is learnt."""

    config: Config
    train: SplitPoints
    plan: Plan
    scoring: Scoring
    classes: int
    task: Task

    def hold(self, device: torch.device) -> None:
        """For a process that reads candidates to ``device`` again and again: hold them there, if
        ``data.resident`` says so. Raises ConfigError if they do not fit."""
        if self.config.data.resident == "device":
            self.train.hold(device)


@dataclass(frozen=True)
class RunInputs(SelectionInputs):
    """What a whole run works on; ``reference`` is the file of a second network, if it has one."""

    dataset: Dataset
    test: SplitPoints
    reference: ReferenceFile | None

    @cached_property
    def sha256(self) -> str:
        """Hash of the data's fingerprint, the first weights' file, the irreducible losses or
        core-set in use, and the parameters that stay out of snapshots. Computed once: it reads them
        all."""
        digest = hashlib.sha256(self.dataset.fingerprint.encode())
        if self.scoring.il is not None:
            digest.update(self.scoring.il.values.data)
            if (tokens := self.scoring.il.tokens) is not None:
                digest.update(tokens.offsets.data)
                digest.update(tokens.values.data)
        if self.scoring.core_set is not None:
            digest.update(self.scoring.core_set.members.data)
        if self.config.model.weights is not None:
            with Path(self.config.model.weights).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        if self.reference is not None:
            digest.update(self.reference.sha256.encode())
        for frozen in (self.frozen, self.frozen_proxy):
            if frozen.hashes:
                digest.update(frozen.sha256.encode())
        return digest.hexdigest()

    @property
    def tokens(self) -> TokenSelection | None:
        """What selects the tokens that the run trains on; None if it trains on all."""
        share, table = self.config.selection.tokens, self.scoring.il
        return None if share == 1 or table is None else TokenSelection(share, table)

    @cached_property
    def frozen(self) -> Frozen:
        """The model's parameters that stay out of snapshots. Raises ModelError if all learn, where
        some should stay out."""
        if self.config.snapshots.only == "all":
            return NOTHING
        return Frozen.some(self.new_model(), f"model.factory {self.config.model.factory}")

    @cached_property
    def frozen_reference(self) -> Frozen:
        """Those of the second network."""
        all_travel = self.config.snapshots.only == "all"
        return NOTHING if all_travel else Frozen.of(self.new_reference())

    @cached_property
    def frozen_proxy(self) -> Frozen:
        """Those of the proxy."""
        all_travel = self.config.snapshots.only == "all" or not self.config.scorer.proxy
        return NOTHING if all_travel else Frozen.of(self.new_proxy())

    def new_model(self) -> nn.Module:
        """The run's model with its initial weights, on the CPU. Raises ModelError."""
        return self._new(self.config.model, "model.factory")

    def new_proxy(self) -> nn.Module:
        """The network that scores in place of the model, likewise. Raises ModelError."""
        proxy = self.config.scorer.proxy_model
        assert proxy is not None, "scorer.proxy is set"
        return self._new(proxy, "scorer.proxy")

    def _new(self, config: ModelConfig, key: str) -> nn.Module:
        """A model with its initial weights, whose factory the configuration has at ``key``."""
        model = configured_model(
            config, self.dataset.input_shape, self.classes, self.config.seed, key
        )
        known, ids = embedded_ids(model), getattr(self.dataset, "ids", None)
        if known is not None and ids is not None and known < ids:
            raise ModelError(
                f"{key} {config.factory}: its embedding has {known} rows, allowed {ids} or"
                " more, one for each id of the data's tokenizer"
            )
        return model

    def new_reference(self) -> nn.Module:
        """The second network with the weights of its file, on the CPU."""
        assert self.reference is not None, "checked when the inputs were opened"
        return self.reference.build(self.dataset.input_shape, self.classes)

    def new_replica(self, device: torch.device, bn: BatchNormMode | None = None) -> Replica:
        """A replica that scores: of the proxy, if the run has one. ``bn`` is that of the
        configuration if not given."""
        if not self.config.scorer.proxy:
            return self.new_target_replica(device, bn)
        return self._scoring(self.new_proxy(), self.frozen_proxy, PROXY, device, bn)

    def new_target_replica(self, device: torch.device, bn: BatchNormMode | None = None) -> Replica:
        """A replica of the model that scores as the others do: for second stages and audits of a
        run with a proxy."""
        return self._scoring(self.new_model(), self.frozen, "", device, bn)

    def _scoring(
        self,
        model: nn.Module,
        frozen: Frozen,
        prefix: str,
        device: torch.device,
        bn: BatchNormMode | None,
    ) -> Replica:
        """A replica that computes what the score function needs. A second network always uses
        running statistics, as when irreducible losses are fitted."""
        config, needs = self.config, self.scoring.needs
        numerics = Numerics.of(config.scorer, bn or config.selection.scoring_bn)
        replica = Replica(model, numerics, device, self.task, needs, config.seed)
        replica.keep(frozen.hashes)
        replica.rename(prefix)
        if self.reference is not None:
            as_fitted = replace(numerics, bn="running", fold_batchnorm=False)
            second = Replica(self.new_reference(), as_fitted, device, self.task)
            second.keep(self.frozen_reference.hashes)
            second.rename(REFERENCE)
            replica.accompany(second)
        return replica

    def idle_replica(self, target: bool = False) -> Replica:
        """One for its layout alone, on the CPU: without what only the device that scores may have,
        and what changes no tensor of a snapshot. In a run with a proxy it is of that, or of the
        ``target``."""
        plain = {"quantize": "none", "compile": False, "graph": False}
        scorer = self.config.scorer.model_copy(update=plain)
        idle = replace(self, config=self.config.model_copy(update={"scorer": scorer}))
        new = idle.new_target_replica if target else idle.new_replica
        return new(torch.device("cpu"))

    def new_evaluator(self, device: torch.device, precision: str | None = None) -> Replica:
        """A replica of the model alone, with running statistics. ``precision`` is
        trainer.precision if not given."""
        scorer, trainer = self.config.scorer, self.config.trainer
        by_pixel = scorer.channels_last or trainer.channels_last
        numerics = Numerics(precision or trainer.precision, "running", by_pixel)
        evaluator = Replica(self.new_model(), numerics, device, self.task)
        evaluator.keep(self.frozen.hashes)
        return evaluator
