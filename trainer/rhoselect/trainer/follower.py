"""A rank that is not the lead: it scores and trains as the lead does, and writes nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rhoselect.compute import repeatable, threads
from rhoselect.inputs import RunInputs
from rhoselect.metrics import Metrics
from rhoselect.ranks.group import Work
from rhoselect.ranks.picks import GivenBatches
from rhoselect.selector import Selector
from rhoselect.trainer import checkpoint as checkpoints
from rhoselect.trainer.evaluate import evaluate
from rhoselect.trainer.learner import Learner
from rhoselect.trainer.runfolder import RunFolder, writing
from rhoselect.trainer.stepping import take_step


class Follower:
    """Takes the steps of a trainer whose learner shares the work with this one. Its selector shares
    the scoring with that of the lead, too, or gets batches from it. All else that the lead knows of
    a step follows from scores and gradients, which all ranks have."""

    def __init__(
        self,
        inputs: RunInputs,
        folder: RunFolder,
        learner: Learner,
        selector: Selector | GivenBatches,
        metrics: Metrics,
    ) -> None:
        self._inputs, self._folder = inputs, folder
        self._learner, self._selector, self._metrics = learner, selector, metrics
        self._step: int | None = None

    def begin(self, step: int) -> None:
        """Go on after ``step`` steps, from the checkpoint from which the lead does."""
        with self._computing():
            if step == 0:
                self._selector.begin(0)
            else:
                shards = self._learner.shards
                path = checkpoints.path_of(self._folder.path, step, shards)
                found = checkpoints.load(path, shards)
                self._learner.load_state_dict(found.learner)
                self._selector.begin(step, found.state)
            self._selector.publish(step, self._learner.tensors)
        self._step = step

    def step(self, step: int) -> None:
        """Take step ``step``. Raises LostRankError, or FencedError once a newer trainer took
        over."""
        assert step == self._step, "the lead takes one step after another"
        with self._computing():
            selected = self._selector.next(step)
            take_step(self._inputs, self._learner, self._selector, self._metrics, selected)
            self._step = step + 1
            self._selector.publish(self._step, self._learner.tensors)

    def share(self, workers: int) -> None:
        """There are so many scorers from now on."""
        logging.info("scorers from now on: %d", workers)
        self._selector.share(workers)

    def take_part(self, work: Work, step: int) -> None:
        """Do ``work`` with the lead after ``step`` steps. Raises LostRankError, or StorageError if
        the run folder cannot be written."""
        learner, shards = self._learner, self._learner.shards
        assert shards is not None, "the lead of a learner that is not divided asks for nothing"
        if work == "whole":
            learner.give()
        elif work == "evaluate":
            evaluate(self._inputs, learner.evaluated_by(None), self._folder.check_fence)
        else:
            with writing(self._folder):
                checkpoints.save_part(self._folder, step, learner.state_dict(), shards)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        config, device = self._inputs.config, self._learner.device
        scoring, tf32 = torch.device(config.scorer.device), config.compute.tf32
        with (
            repeatable(device, tf32),
            repeatable(scoring, tf32),
            threads(config.trainer.threads),
        ):
            yield
