"""summary.json: a run in one object, derived from its logs. The keys are a contract."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rhoselect.data.il_table import IlMetadata
from rhoselect.inputs import RunInputs
from rhoselect.models.reference import ReferenceMetadata
from rhoselect.trainer import records
from rhoselect.trainer.checkpoint import Progress
from rhoselect.trainer.flops import forward_flops, step_flops
from rhoselect.trainer.learner import Learner
from rhoselect.trainer.runfolder import RunFolder


def summarise(
    inputs: RunInputs,
    folder: RunFolder,
    workers: int,
    progress: Progress,
    learner: Learner,
    busy_seconds: dict[str, float],
) -> dict[str, Any]:
    """The summary of a finished run. ``busy_seconds`` are those of the trainer's process by phase,
    since its start or last resume."""
    config, scoring = inputs.config, inputs.scoring
    evaluations = records.read_evaluations(folder.path)
    accuracies = [e["accuracy"] for e in evaluations]
    staleness = records.read_steps(folder.path, ["staleness"])["staleness"].to_numpy()
    proxy = scoring.core_set.metadata if scoring.core_set else None
    flops = _flops(inputs, progress, learner)
    return {
        "method": config.selection.function,
        "workers": workers,
        "lag": config.selection.lag,
        "steps": progress.step,
        "best_accuracy": max(accuracies),
        "final_accuracy": accuracies[-1],
        "steps_to": {str(t): _steps_to(evaluations, t) for t in config.trainer.targets},
        "wall_seconds": progress.wall_seconds,
        "il_seconds": sum(made.seconds for made in _fitted_before(inputs)),
        "proxy_seconds": proxy.seconds if proxy else 0.0,
        "trainer_wait_seconds": progress.wait_seconds,
        "busy_seconds": busy_seconds,
        "scored_points": progress.scored_points,
        "scored_points_per_second": progress.scored_points / progress.wall_seconds,
        "max_staleness_steps": int(staleness.max()),
        "mean_staleness_steps": float(staleness.mean()),
        "weights_sha256": records.weights_sha256(learner.model),
        "selected_sha256": records.selected_sha256(records.read_selected(folder.path)),
        "flops": {**flops, "proxy": proxy.flops if proxy else 0},
        "seed": config.seed,
        "data_fingerprint": inputs.dataset.fingerprint,
    }


def _flops(inputs: RunInputs, progress: Progress, learner: Learner) -> dict[str, int]:
    """FLOPs of training, scoring and irreducible losses, counted on one batch each."""
    config, scoring = inputs.config, inputs.scoring
    rescored = 0
    if config.k > 1:
        whole = scoring.function.whole_window
        rescored = config.selection.n_B if whole else config.k * config.selection.n_b
    forwards = progress.scored_points + progress.step * rescored if scoring.needs.forward else 0
    forwards *= 1 + scoring.needs.passes
    trained = progress.step * config.selection.n_b
    sample = inputs.train.read(inputs.train.first(config.selection.n_b), learner.device)
    train = trained * step_flops(learner.model, sample)
    score = forwards * forward_flops(learner.model, sample) if forwards else 0
    if learner.reference is not None:
        score += forwards * forward_flops(learner.reference.model, sample)
        if config.il.update_lr_factor:
            train += trained * step_flops(learner.reference.model, sample)
    il = sum(made.flops for made in _fitted_before(inputs))
    return {"train": train, "score": score, "il": il}


def _fitted_before(inputs: RunInputs) -> Iterator[IlMetadata | ReferenceMetadata]:
    """Where the run's irreducible losses and their model come from."""
    if inputs.scoring.needs.il and inputs.scoring.il is not None:
        yield inputs.scoring.il.metadata
    if inputs.reference is not None:
        yield inputs.reference.metadata


def _steps_to(evaluations: list[dict[str, Any]], target: float) -> int | None:
    """The first evaluated step at which the accuracy is at least ``target``."""
    return next((int(e["step"]) for e in evaluations if e["accuracy"] >= target), None)
