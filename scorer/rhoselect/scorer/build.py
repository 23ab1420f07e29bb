"""A scorer from a run's inputs."""

from __future__ import annotations

import torch

from rhoselect.compute import resolve_device
from rhoselect.inputs import RunInputs
from rhoselect.metrics import Metrics
from rhoselect.queue import SelectionQueue
from rhoselect.scorer.loop import Scorer
from rhoselect.snapshots import SnapshotReader


def build_scorer(
    inputs: RunInputs,
    slot: int,
    lanes: int,
    queue: SelectionQueue,
    snapshots: SnapshotReader,
    metrics: Metrics,
) -> Scorer:
    """The scorer of ``slot``. With device "cuda", slot s uses GPU s modulo the number of GPUs."""
    config = inputs.config
    device = resolve_device(config.scorer.device, "scorer.device")
    if config.scorer.device == "cuda":
        device = torch.device("cuda", slot % torch.cuda.device_count())
    return Scorer(inputs, inputs.new_replica(device), queue, snapshots, metrics, slot, lanes)
