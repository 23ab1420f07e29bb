"""A scorer from a run's inputs."""

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
    return Scorer(inputs, inputs.new_replica(device), queue, snapshots, metrics, slot, lanes)
