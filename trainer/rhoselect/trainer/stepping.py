"""One step on a selected batch: the same on every rank."""

from __future__ import annotations

from rhoselect.inputs import RunInputs
from rhoselect.metrics import Metrics
from rhoselect.ranks.picks import GivenBatches
from rhoselect.selector import SelectedBatch, Selector
from rhoselect.trainer.learner import Learner, StepResult


def take_step(
    inputs: RunInputs,
    learner: Learner,
    selector: Selector | GivenBatches,
    metrics: Metrics,
    selected: SelectedBatch,
) -> StepResult:
    """Read the batch, train on it and report its losses to the method, if that needs them. Every
    rank reads the whole batch: what is padded does not depend on who trains on which part."""
    points, device = selected.points, learner.device
    with metrics.waiting("data"):
        batch = inputs.train.read(points.indices, device, points.epochs)
    weights = None if points.weights is None else points.weights.to(device)
    with metrics.busy("train", device):
        result = learner.update(batch, weights, selected.step)
    if selector.needs_losses:  # else nothing waits for the device here
        selector.report(batch.labels.cpu(), result.losses.cpu())
    return result
