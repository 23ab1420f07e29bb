"""Builds a selector, or a session for a user's own training loop, from a run's inputs."""

from __future__ import annotations

from rhoselect.config import Config
from rhoselect.errors import ConfigError
from rhoselect.inputs import RunInputs, SelectionInputs
from rhoselect.queue import SelectionQueue
from rhoselect.scorer.build import IdleScorer
from rhoselect.scorer.loop import Scorer
from rhoselect.scorer.weights import Weights
from rhoselect.selection.infobatch import InfoBatch
from rhoselect.selector.fence import ClosableFence, Fence
from rhoselect.selector.rescorer import Rescorer
from rhoselect.selector.selector import Selector
from rhoselect.selector.session import Recorder, Session
from rhoselect.selector.start import Start
from rhoselect.selector.walk import WalkingSelector
from rhoselect.selector.windows import Windows
from rhoselect.snapshots import SnapshotStore


def rescores_here(config: Config) -> bool:
    """Whether a selector scores outside the queue, too: second stages, or audits."""
    second_stage = config.k > 1 and not config.scorers_rescore
    return second_stage or config.selection.audit_every > 0


def build_selector(
    inputs: SelectionInputs,
    scorer: Scorer,
    rescores: bool,
    queue: SelectionQueue,
    snapshots: SnapshotStore,
    fence: Fence,
    workers: int,
    rank: int = 0,
) -> Selector:
    """A selector for a run with ``workers`` scorers. ``scorer`` scores in this process, which may
    be any ``rank`` of the run, and its replica also ``rescores`` here (see ``rescores_here``)."""
    metrics = scorer.metrics
    windows = Windows(inputs, queue, scorer, fence, metrics, workers, rank)
    if isinstance(inputs.scoring.function, InfoBatch):
        return WalkingSelector(inputs, scorer.layout, windows, snapshots, metrics)
    rescorer = None
    if rescores:
        fresh = _fresh_weights(inputs, scorer, snapshots)
        rescorer = Rescorer(inputs, scorer.weights, fresh, metrics)
    return Selector(inputs, scorer.layout, windows, rescorer, snapshots, metrics)


def _fresh_weights(inputs: SelectionInputs, scorer: Scorer, snapshots: SnapshotStore) -> Weights:
    """What scores by the newest weights of the model that trains: the scorer's own replica, unless
    that is of a proxy."""
    if not inputs.config.scorer.proxy:
        return scorer.weights
    assert isinstance(inputs, RunInputs), "a loop of the user's own has no proxy"
    device = scorer.weights.replica.device
    return Weights(inputs.new_target_replica(device), snapshots, scorer.metrics)


def build_session(
    inputs: SelectionInputs,
    scorer: Scorer,
    queue: SelectionQueue,
    snapshots: SnapshotStore,
    fence: Fence,
    workers: int,
    start: Start,
    recorder: Recorder | None = None,
) -> Session:
    """A session, in which the scorers compute the second stages (see ``servable``). Audits are
    computed here; a process without the device that scores makes none."""
    closable, here = ClosableFence(fence), not isinstance(scorer, IdleScorer)
    audits = here and rescores_here(inputs.config)
    selector = build_selector(inputs, scorer, audits, queue, snapshots, closable, workers)
    return Session(inputs, selector, closable, scorer.metrics, start, recorder)


def servable(config: Config) -> Config:
    """The configuration for a user's own loop: the scorers compute all second stages, which changes
    no result. Raises ConfigError for settings that only `rhoctl train` supports."""
    if config.trainer.publish_every > 1:
        raise ConfigError(
            f"trainer.publish_every: got {config.trainer.publish_every}, allowed 1 for a loop of"
            " your own; change the key"
        )
    if config.trainer.devices > 1:
        raise ConfigError(
            f"trainer.devices: got {config.trainer.devices}, allowed 1 for a loop of your own,"
            " which trains as it likes; change the key"
        )
    if config.scorer.proxy:
        raise ConfigError(
            f"scorer.proxy: got {config.scorer.proxy!r}, allowed '' for a loop of your own, which"
            " owns the weights: train the small network there beside the other, on the same"
            " batches, and select by that one"
        )
    if config.selection.function == "infobatch":
        raise ConfigError(
            "selection.function: got 'infobatch', which keeps the losses of a run and needs 'rhoctl"
            " train', allowed other functions for a loop of your own"
        )
    if config.selection.tokens < 1:
        raise ConfigError(
            f"selection.tokens: got {config.selection.tokens}, allowed 1 for a loop of your own,"
            " which trains on the tokens that it chooses; see rhoselect.selection.tokens"
        )
    if config.selection.max_tokens:
        raise ConfigError(
            f"selection.max_tokens: got {config.selection.max_tokens}, allowed 0 for a loop of your"
            " own, which gets n_b points a step and may train on the first of them"
        )
    selection = config.selection.model_copy(update={"rescore": "scorers"})
    return config.model_copy(update={"selection": selection})


def check_servable(inputs: RunInputs) -> None:
    """Raise ConfigError for methods that need more than the loop's weights and losses."""
    if inputs.scoring.needs.reference:
        raise ConfigError(
            f"selection.function: got {inputs.config.selection.function!r}, which trains a second"
            " network and needs 'rhoctl train', allowed other functions for a loop of your own"
        )
