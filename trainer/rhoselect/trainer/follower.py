"""A rank that is not the lead: it scores and trains as the lead does, and writes nothing."""

from __future__ import annotations

import torch

from rhoselect.compute import repeatable, threads
from rhoselect.inputs import RunInputs
from rhoselect.metrics import Metrics
from rhoselect.selector import Selector
from rhoselect.trainer import checkpoint as checkpoints
from rhoselect.trainer.learner import Learner
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.trainer.stepping import take_step


class Follower:
    """Takes the steps of a trainer whose learner and selector share the work with these. What the
    lead knows of a step follows from scores and gradients, which all ranks have."""

    def __init__(
        self,
        inputs: RunInputs,
        folder: RunFolder,
        learner: Learner,
        selector: Selector,
        metrics: Metrics,
    ) -> None:
        self._inputs, self._folder = inputs, folder
        self._learner, self._selector, self._metrics = learner, selector, metrics
        self._next: int | None = None

    def step(self, step: int) -> None:
        """Take step ``step``. Before the first one load the checkpoint from which the lead went on:
        that of its step. Raises LostRankError, or FencedError once a newer trainer took over."""
        device, config = self._learner.device, self._inputs.config
        scoring = torch.device(config.scorer.device)
        with repeatable(device), repeatable(scoring), threads(config.trainer.threads):
            if self._next is None:
                self._begin(step)
            assert self._next in (None, step), "the lead takes one step after another"
            selected = self._selector.next(step)
            take_step(self._inputs, self._learner, self._selector, self._metrics, selected)
            self._next = step + 1
            self._selector.publish(self._next, self._learner.tensors)

    def _begin(self, step: int) -> None:
        if step == 0:
            self._selector.begin(0)
        else:
            found = checkpoints.load(checkpoints.path_of(self._folder.path, step))
            self._learner.load_state_dict(found.learner)
            self._selector.begin(step, found.state)
        self._selector.publish(step, self._learner.tensors)
