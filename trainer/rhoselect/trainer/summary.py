"""summary.json: a run in one object, derived from its logs. The keys are a contract."""

from __future__ import annotations

from typing import Any

from torch import nn

from rhoselect.config import Config
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
) -> dict[str, Any]:
    """The summary of a finished run; ``sample`` is any batch for counting FLOPs, ``busy_seconds``
    those of the trainer's process by phase, since its start or last resume."""
    evaluations = records.read_evaluations(folder.path)
    steps = records.read_steps(folder.path)
    accuracies = [e["accuracy"] for e in evaluations]
    staleness = steps["staleness"].to_numpy()
    rescored = 0
    if config.k > 1:
        whole = scoring.function.whole_window
        rescored = config.selection.n_B if whole else config.k * config.selection.n_b
    scored = progress.scored_points
    forwards = (scored + progress.step * rescored) if scoring.needs.forward else 0
    forwards *= 1 + scoring.needs.passes
    proxy = scoring.core_set.metadata if scoring.core_set else None
    uses_il = scoring.needs.il and scoring.il is not None
    return {
        "method": config.selection.function,
        "workers": workers,
        "lag": config.selection.lag,
        "steps": progress.step,
        "best_accuracy": max(accuracies),
        "final_accuracy": accuracies[-1],
        "steps_to": {str(t): _steps_to(evaluations, t) for t in config.trainer.targets},
        "wall_seconds": progress.wall_seconds,
        "il_seconds": scoring.il.metadata.seconds if uses_il and scoring.il else 0.0,
        "proxy_seconds": proxy.seconds if proxy else 0.0,
        "trainer_wait_seconds": progress.wait_seconds,
        "busy_seconds": busy_seconds,
        "scored_points": scored,
        "scored_points_per_second": scored / progress.wall_seconds,
        "max_staleness_steps": int(staleness.max()),
        "mean_staleness_steps": float(staleness.mean()),
        "weights_sha256": records.weights_sha256(model),
        "selected_sha256": records.selected_sha256(
            c.flatten().to_numpy() for c in steps["indices"].chunks
        ),
        "exact": config.exact,
        "flops": {
            "train": progress.step * config.selection.n_b * step_flops(model, sample),
            "score": forwards * forward_flops(model, sample) if forwards else 0,
            "il": scoring.il.metadata.flops if uses_il and scoring.il else 0,
            "proxy": proxy.flops if proxy else 0,
        },
        "seed": config.seed,
    }


def _steps_to(evaluations: list[dict[str, Any]], target: float) -> int | None:
    """The first evaluated step at which the accuracy is at least ``target``."""
    return next((int(e["step"]) for e in evaluations if e["accuracy"] >= target), None)
