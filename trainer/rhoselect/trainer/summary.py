"""summary.json: a run in one object, derived from its logs. The keys are a contract."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from rhoselect.config import Config
from rhoselect.data.il_table import IlMetadata
from rhoselect.inputs import RunInputs, SelectionInputs
from rhoselect.models.reference import ReferenceMetadata
from rhoselect.tasks import Task
from rhoselect.trainer import records
from rhoselect.trainer.checkpoint import Progress
from rhoselect.trainer.flops import forward_flops, step_flops
from rhoselect.trainer.hardware import exactness
from rhoselect.trainer.learner import Learner
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.types import PROXY, REFERENCE


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
    weights_sha256 = records.weights_sha256(learner.evaluated)
    others = {prefix: other.model for prefix, other in learner.others.items()}
    trained = sum(map(len, records.read_selected(folder.path)))
    flops = count_flops(inputs, progress, learner.evaluated, others, trained)
    summary = summary_of(inputs, folder, workers, progress, weights_sha256, flops)
    return {**summary, "busy_seconds": busy_seconds}


def summary_of(
    inputs: SelectionInputs,
    folder: RunFolder,
    workers: int,
    progress: Progress,
    weights_sha256: str | None,
    flops: dict[str, int],
) -> dict[str, Any]:
    """The summary of a run by its logs. ``weights_sha256`` is None, and figures of evaluations are,
    where only a loop of the user's own knows them. ``flops``: those of training, scoring, il."""
    config, scoring = inputs.config, inputs.scoring
    hardware = exactness(folder.path)
    staleness = records.read_steps(folder.path, ["staleness"])["staleness"].to_numpy()
    proxy = scoring.core_set.metadata if scoring.core_set else None
    return {
        "method": config.selection.function,
        "workers": workers,
        "devices": config.trainer.devices,
        "lag": config.selection.lag,
        "steps": progress.step,
        **measured(folder, inputs.task, config.trainer.targets),
        "wall_seconds": progress.wall_seconds,
        "il_seconds": sum(made.seconds for made in _fitted_before(inputs)),
        "proxy_seconds": proxy.seconds if proxy else 0.0,
        "trainer_wait_seconds": progress.wait_seconds,
        "busy_seconds": {},
        "scored_points": progress.scored_points,
        "scored_points_per_second": progress.scored_points / progress.wall_seconds,
        "max_staleness_steps": int(staleness.max()),
        "mean_staleness_steps": float(staleness.mean()),
        "exact": hardware.exact,
        "inexact_because": hardware.reason or None,
        "exact_for_devices": config.trainer.exact_for_devices,
        "weights_sha256": weights_sha256,
        "selected_sha256": records.selected_sha256(records.read_selected(folder.path)),
        "flops": {**flops, "proxy": proxy.flops if proxy else 0},
        "seed": config.seed,
        "data_fingerprint": inputs.dataset.fingerprint if isinstance(inputs, RunInputs) else "",
    }


def measured(folder: RunFolder, task: Task, targets: Iterable[float]) -> dict[str, Any]:
    """The part of a summary that the evaluations give: the task's main figure, also by its name."""
    lines = records.read_evaluations(folder.path)
    told = {int(e["step"]): e.get("metric", e.get(task.metric)) for e in lines}
    found = {step: figure for step, figure in told.items() if figure is not None}
    figures, sign = list(found.values()), 1 if task.direction == "max" else -1
    best = max(figures, key=lambda figure: sign * figure, default=None)
    final = figures[-1] if figures else None
    return {
        "metric": task.metric,
        "metric_direction": task.direction,
        "best_metric": best,
        "final_metric": final,
        f"best_{task.metric}": best,
        f"final_{task.metric}": final,
        "steps_to": {
            str(target): next((s for s, each in found.items() if sign * (each - target) >= 0), None)
            for target in targets
        },
    }


def count_flops(
    inputs: RunInputs,
    progress: Progress,
    model: nn.Module,
    others: Mapping[str, nn.Module],
    trained: int,
) -> dict[str, int]:
    """FLOPs of training on ``trained`` points, scoring and irreducible losses, counted on one batch
    each. ``others`` learn beside the model, by the prefixes of their tensors."""
    config, scoring = inputs.config, inputs.scoring
    again = 0
    if config.k > 1:
        whole = scoring.function.whole_window
        again = config.selection.n_B if whole else config.k * config.selection.n_b
    scored = progress.scored_points if scoring.needs.forward else 0
    rescored = progress.step * again if scoring.needs.forward else 0
    passes = 1 + scoring.needs.passes
    task, device = inputs.task, next(model.parameters()).device
    sample = inputs.train.read(inputs.train.first(config.selection.n_b), device)
    learning = [model, *(each for prefix, each in others.items() if _learns(config, prefix))]
    train = trained * sum(step_flops(task, each, sample) for each in learning)
    forwards = [(others.get(PROXY, model), scored), (model, rescored)]
    if REFERENCE in others:
        forwards.append((others[REFERENCE], scored + rescored))
    score = passes * sum(
        count * forward_flops(task, each, sample) for each, count in forwards if count
    )
    return {"train": train, "score": score, "il": il_flops(inputs)}


def _learns(config: Config, prefix: str) -> bool:
    return prefix != REFERENCE or config.il.update_lr_factor > 0


def il_flops(inputs: SelectionInputs) -> int:
    """FLOPs spent before the run on its irreducible losses."""
    return sum(made.flops for made in _fitted_before(inputs))


def _fitted_before(inputs: SelectionInputs) -> Iterator[IlMetadata | ReferenceMetadata]:
    """Where the run's irreducible losses and their model come from."""
    if inputs.scoring.il is not None:
        yield inputs.scoring.il.metadata
    if isinstance(inputs, RunInputs) and inputs.reference is not None:
        yield inputs.reference.metadata
