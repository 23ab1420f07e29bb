"""From a run's checked inputs to a session: the same parts as a trainer's, but for the learner."""

from __future__ import annotations

from typing import Any

import torch

from rhoselect.config import Config
from rhoselect.data import SplitPoints
from rhoselect.errors import ConfigError
from rhoselect.launch.prepared import Prepared, new_model, new_replica
from rhoselect.launch.service.session import Ending, Layout, Session
from rhoselect.launch.wiring import build_scorer
from rhoselect.metrics import Metrics
from rhoselect.plan import Plan
from rhoselect.queue import SelectionQueue
from rhoselect.scorer.loop import Scorer
from rhoselect.selection import Scoring
from rhoselect.snapshots import SnapshotStore
from rhoselect.trainer.ground import Fence
from rhoselect.trainer.picker import Picker
from rhoselect.trainer.windows import Windows, lanes

CPU = torch.device("cpu")


def servable(config: Config) -> Config:
    """The configuration as a loop elsewhere can be served, with all second stages left to the
    scorers, which changes no result. Raises ConfigError for what only our own trainer does."""
    selection = config.selection
    if selection.mode != "window" or selection.lag == "auto" or config.trainer.publish_every > 1:
        raise ConfigError(
            f'selection: got mode "{selection.mode}", lag {selection.lag!r} and'
            f" trainer.publish_every {config.trainer.publish_every}, allowed for a loop of your own"
            ' mode "window", a number as lag and 1'
        )
    return config.model_copy(
        update={"selection": selection.model_copy(update={"rescore": "scorers"})}
    )


def check_servable(prepared: Prepared) -> None:
    """Raise ConfigError for methods that need more of the learner than its weights and losses."""
    if prepared.scoring.needs.reference:
        raise ConfigError(
            f"selection.function: got {prepared.config.selection.function!r}, whose second network"
            " learns in our own trainer, allowed others for a loop of your own"
        )


def build_session(
    prepared: Prepared,
    fence: Fence,
    queue: SelectionQueue,
    snapshots: SnapshotStore,
    metrics: Metrics,
    workers: int,
    first_step: int,
) -> Session:
    """The session of a configuration, with a scorer of its own in the slot after the workers'."""
    config = prepared.config
    return assemble(
        config,
        prepared.plan,
        prepared.train,
        prepared.scoring,
        prepared.dataset.classes,
        layout_of(prepared),
        build_scorer(prepared, workers, lanes(config, workers), queue, snapshots, metrics),
        fence,
        queue,
        snapshots,
        metrics,
        workers,
        first_step,
    )


def assemble(
    config: Config,
    plan: Plan,
    train: SplitPoints,
    scoring: Scoring,
    classes: int,
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
    ending = Ending(fence)
    windows = Windows(config, ending, plan, queue, metrics, hand, workers)
    picker = Picker(config, plan, train.start, scoring, windows, None, CPU)
    return Session(
        config,
        train,
        scoring,
        classes,
        layout,
        windows,
        picker,
        snapshots,
        metrics,
        ending,
        first_step,
    )


def layout_of(prepared: Prepared) -> Layout:
    """What a snapshot for this run's replicas holds."""
    dtypes = new_replica(prepared, prepared.config.selection.bn, CPU).layout
    return meta(new_model(prepared).state_dict(), dtypes)


def meta(tensors: Any, dtypes: dict[str, torch.dtype]) -> Layout:
    """Shapes of ``tensors`` with ``dtypes``, without their memory."""
    return {
        name: torch.empty(tensors[name].shape, dtype=dtype, device="meta")
        for name, dtype in dtypes.items()
    }
