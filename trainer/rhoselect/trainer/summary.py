"""summary.json: a run in one object, derived from its logs. The keys are a contract."""

from __future__ import annotations

from typing import Any

from torch import nn

from rhoselect.config import Config
from rhoselect.models.reference import ReferenceFile
from rhoselect.selection import Scoring
from rhoselect.trainer import records
from rhoselect.trainer.checkpoint import Progress
from rhoselect.trainer.flops import forward_flops, step_flops
from rhoselect.trainer.runfolder import RunFolder
from rhoselect.types import Batch


def summarise(
    config: Config,
    folder: RunFolder,
    workers: int,
    progress: Progress,
    model: nn.Module,
    scoring: Scoring,
    sample: Batch,
    busy_seconds: dict[str, float],
    reference: ReferenceFile | None = None,
    reference_model: nn.Module | None = None,
) -> dict[str, Any]:
    """The summary of a finished run; ``sample`` is any batch for counting FLOPs, ``busy_seconds``
    those of the trainer's process by phase, since its start or last resume; ``reference`` and its
    model are the second network of a function that evaluates one."""
    evaluations = records.read_evaluations(folder.path)
    accuracies = [e["accuracy"] for e in evaluations]
    staleness = records.read_steps(folder.path, ["staleness"])["staleness"].to_numpy()
    rescored = 0
    if config.k > 1:
        whole = scoring.function.whole_window
        rescored = config.selection.n_B if whole else config.k * config.selection.n_b
    scored = progress.scored_points
    forwards = (scored + progress.step * rescored) if scoring.needs.forward else 0
    forwards *= 1 + scoring.needs.passes
    proxy = scoring.core_set.metadata if scoring.core_set else None
    il_seconds, il_flops = 0.0, 0
    if scoring.needs.il and scoring.il is not None:
        il_seconds, il_flops = scoring.il.metadata.seconds, scoring.il.metadata.flops
    train_flops = progress.step * config.selection.n_b * step_flops(model, sample)
    score_flops = forwards * forward_flops(model, sample) if forwards else 0
    if reference is not None and reference_model is not None:
        il_seconds += reference.metadata.seconds
        il_flops += reference.metadata.flops
        score_flops += forwards * forward_flops(reference_model, sample)
        if config.il.update_lr_factor:
            each = step_flops(reference_model, sample)
            train_flops += progress.step * config.selection.n_b * each
    return {
        "method": config.selection.function,
        "workers": workers,
        "lag": config.selection.lag,
        "steps": progress.step,
        "best_accuracy": max(accuracies),
        "final_accuracy": accuracies[-1],
        "steps_to": {str(t): _steps_to(evaluations, t) for t in config.trainer.targets},
        "wall_seconds": progress.wall_seconds,
        "il_seconds": il_seconds,
        "proxy_seconds": proxy.seconds if proxy else 0.0,
        "trainer_wait_seconds": progress.wait_seconds,
        "busy_seconds": busy_seconds,
        "scored_points": scored,
        "scored_points_per_second": scored / progress.wall_seconds,
        "max_staleness_steps": int(staleness.max()),
        "mean_staleness_steps": float(staleness.mean()),
        "weights_sha256": records.weights_sha256(model),
        "selected_sha256": records.selected_sha256(records.read_selected(folder.path)),
        "exact": config.exact,
        "flops": {
            "train": train_flops,
            "score": score_flops,
            "il": il_flops,
            "proxy": proxy.flops if proxy else 0,
        },
        "seed": config.seed,
    }


def _steps_to(evaluations: list[dict[str, Any]], target: float) -> int | None:
    """The first evaluated step at which the accuracy is at least ``target``."""
    return next((int(e["step"]) for e in evaluations if e["accuracy"] >= target), None)
