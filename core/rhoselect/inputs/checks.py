"""Tries the score function on two points, before a run starts."""

from __future__ import annotations

import torch

from rhoselect.config import Config
from rhoselect.errors import ConfigError
from rhoselect.importing import one_line
from rhoselect.inputs.run_inputs import RunInputs
from rhoselect.selection.interface import State
from rhoselect.types import Batch, ForwardOutput


def check_scores(inputs: RunInputs, sample: Batch) -> None:
    """Raise ConfigError unless the score function gives one score a point for two points."""
    function, output = inputs.config.selection.function, None
    state: State = {}  # it is published with the weights
    if inputs.scoring.needs.forward:
        replica = inputs.new_replica(torch.device("cpu"), bn="running")
        output = replica(sample)
        _check_passes(inputs.config, output, replica(sample))
        state = inputs.scoring.function.initial_state(inputs.classes)
    try:
        scores, _ = inputs.scoring(sample.indices, output, state)
    except Exception as error:
        raise ConfigError(
            f"selection.function {function}: fails on two points: {one_line(error)}"
        ) from None
    if scores.shape != (2,):
        raise ConfigError(
            f"selection.function {function}: for 2 points gives scores of shape"
            f" {list(scores.shape)}, allowed [2]; return one score a point"
        )


def _check_passes(config: Config, first: ForwardOutput, second: ForwardOutput) -> None:
    """Raise ConfigError unless the stochastic passes of two forwards of the same points are random
    and the same. Nothing is checked where there are none."""
    if first.passes is None or second.passes is None:
        return
    key = f"selection.function {config.selection.function}"
    if torch.allclose(first.passes, first.logits):
        raise ConfigError(
            f"{key}: needs a model with dropout, got one of {config.model.factory} whose"
            " stochastic passes are all alike; choose a model with dropout layers"
        )
    if not torch.equal(first.passes, second.passes):
        raise ConfigError(
            f"{key}: got stochastic passes that do not repeat, allowed a model that draws from"
            " torch's own generator and changes nothing in a forward but BatchNorm's statistics"
        )
