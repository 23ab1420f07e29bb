"""From a run's checked inputs to a session: the same parts as a trainer's, but for the learner."""

from __future__ import annotations

import torch

from rhoselect.config import Config
from rhoselect.errors import ConfigError
from rhoselect.inputs import RunInputs, SelectionInputs
from rhoselect.metrics import Metrics
from rhoselect.queue import SelectionQueue
from rhoselect.scorer.build import build_scorer
from rhoselect.scorer.loop import Scorer
from rhoselect.service.session import Ending, Session
from rhoselect.snapshots import SnapshotStore
from rhoselect.trainer.ground import Fence
from rhoselect.trainer.picker import Picker
from rhoselect.trainer.windows import Windows, lanes
from rhoselect.types import Layout

CPU = torch.device("cpu")


def servable(config: Config) -> Config:
    """The configuration as a loop elsewhere can be served, with all second stages left to the
    scorers, which changes no result. Raises ConfigError for what only our own trainer does."""
    selection = config.selection
    if selection.mode != "window" or config.trainer.publish_every > 1:
        raise ConfigError(
            f'selection: got mode "{selection.mode}" and trainer.publish_every'
            f" {config.trainer.publish_every}, allowed for a loop of your own"
            ' mode "window" and 1'
        )
    return config.model_copy(
        update={"selection": selection.model_copy(update={"rescore": "scorers"})}
    )


def check_servable(inputs: RunInputs) -> None:
    """Raise ConfigError for methods that need more of the learner than its weights and losses."""
    if inputs.scoring.needs.reference:
        raise ConfigError(
            f"selection.function: got {inputs.config.selection.function!r}, whose second network"
            " learns in our own trainer, allowed others for a loop of your own"
        )


def build_session(
    inputs: RunInputs,
    fence: Fence,
    queue: SelectionQueue,
    snapshots: SnapshotStore,
    metrics: Metrics,
    workers: int,
    first_step: int,
) -> Session:
    """The session of a configuration, with a scorer of its own in the slot after the workers'."""
    config = inputs.config
    share = lanes(config, workers)
    scorer = build_scorer(inputs, workers, share, queue, snapshots, metrics)
    return assemble(
        inputs, scorer.layout, scorer, fence, queue, snapshots, metrics, workers, first_step
    )


def assemble(
    inputs: SelectionInputs,
    layout: Layout,
    hand: Scorer,
    fence: Fence,
    queue: SelectionQueue,
    snapshots: SnapshotStore,
    metrics: Metrics,
    workers: int,
    first_step: int,
) -> Session:
    """A session over parts; ``hand`` scores in this process."""
    config, plan, train, scoring = inputs.config, inputs.plan, inputs.train, inputs.scoring
    ending = Ending(fence)
    windows = Windows(config, ending, plan, queue, metrics, hand, workers)
    picker = Picker(config, plan, scoring, windows, None, CPU)
    return Session(
        config,
        train,
        scoring,
        inputs.classes,
        layout,
        windows,
        picker,
        snapshots,
        metrics,
        ending,
        first_step,
    )
