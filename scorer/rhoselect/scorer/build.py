"""A scorer from a run's inputs, or one that scores nothing."""

from __future__ import annotations

import torch

from rhoselect.compute import make_current
from rhoselect.inputs import RunInputs
from rhoselect.metrics import Metrics
from rhoselect.queue import SelectionQueue
from rhoselect.scorer.loop import Scorer
from rhoselect.snapshots import SnapshotReader


def build_scorer(
    inputs: RunInputs,
    device: torch.device,
    slot: int,
    lanes: int,
    queue: SelectionQueue,
    snapshots: SnapshotReader,
    metrics: Metrics,
) -> Scorer:
    """The scorer of ``slot``, on ``device``: see ``devices``."""
    make_current(device)
    if inputs.scoring.needs.forward:
        inputs.hold(device)
    return Scorer(inputs, inputs.new_replica(device), queue, snapshots, metrics, slot, lanes)


class IdleScorer(Scorer):
    """Scores nothing: for a process without the device that scores. Snapshots have the layout of
    its replica, which stays on the CPU."""

    def score_one(self) -> bool:
        """False."""
        return False

    def score_ahead(self, window: int, own_lane: bool) -> bool:
        """False."""
        return False

    def score_shortlist(self) -> bool:
        """False."""
        return False


def build_idle_scorer(
    inputs: RunInputs,
    slot: int,
    queue: SelectionQueue,
    snapshots: SnapshotReader,
    metrics: Metrics,
) -> IdleScorer:
    """The scorer of ``slot`` in a process that does not score; it has no lane."""
    return IdleScorer(inputs, inputs.idle_replica(), queue, snapshots, metrics, slot, lanes=slot)
