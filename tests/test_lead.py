"""``rhoctl plan`` tells whether irreducible losses know more than the model soon will."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from rhoselect.compute import threads
from rhoselect.config import load
from rhoselect.inputs import open_inputs
from rhoselect.models.build import build_model
from rhoselect.planning.lead import LEAST, WINDOWS, Lead, lead
from rhoselect.planning.lead import STEPS as MOST
from rhoselect.planning.model import verdict
from rhoselect.types import Indices
from support import CLASSES, made, rhoctl
from test_plan_command import EIGHT

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
STEPS = 6
SETS = [f"trainer.steps={STEPS}", "trainer.lr=0.01"]


def test_the_model_is_that_of_a_plain_loop(tiny_config: Path) -> None:
    inputs = open_inputs(load(tiny_config, SETS))
    points, plan, il = inputs.train, inputs.plan, inputs.scoring.il
    assert il is not None
    model = build_model("rhoselect.models:mlp", {"width": 32}, (1, 16, 16), CLASSES, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)

    def forward(indices: Indices) -> tuple[torch.Tensor, torch.Tensor]:
        batch = points.read(indices, CPU)
        return model(batch.inputs), batch.labels

    with threads(1):
        for step in range(STEPS):
            optimizer.zero_grad()
            F.cross_entropy(*forward(plan.indices(plan.window(step)[:8]))).backward()
            optimizer.step()
        windows = range(STEPS, STEPS + WINDOWS)
        candidates = np.concatenate([plan.indices(plan.window(each)) for each in windows])
        logits, labels = forward(candidates)
    found = lead(inputs)
    assert found is not None and found.steps == STEPS
    assert found.accuracy == (logits.argmax(1) == labels).double().mean().item()
    assert found.il_accuracy == il.metadata.accuracy


def test_a_run_without_a_table_has_none(tiny_config: Path) -> None:
    assert lead(open_inputs(load(tiny_config, ["selection.function=loss"]))) is None


def test_weak_losses_are_doubtful() -> None:
    weak, enough = Lead(MOST, 0.5, 0.5 * LEAST - 0.01), Lead(MOST, 0.5, 0.5 * LEAST + 0.01)
    assert str(weak).startswith("warning: irreducible losses: their model has 53.0% of labels")
    assert str(enough).startswith("irreducible losses") and "says little" not in str(enough)
    assert "after fewer than" in str(Lead(MOST - 1, 0.5, 0.9)), "a lead only shrinks"
    assert verdict(EIGHT, weak.weak).startswith("Doubtful with these irreducible losses: try ")
    assert verdict(EIGHT, enough.weak) == verdict(EIGHT)


def test_least_is_the_measured_threshold() -> None:
    figures = json.loads((ROOT / "docs" / "results" / "predict.json").read_text())
    [judged] = [each for each in figures["predictors"] if each["predictor"] == "ratio"]
    assert round(judged["threshold"], 2) == LEAST and figures["warm"] == MOST


def test_a_fit_warns_where_its_losses_are_too_weak_for_a_target(
    tiny_config: Path, dataset_dir: Path, tmp_path: Path
) -> None:
    """A model of one unit that takes three steps, for a target that learns fast."""
    out, model = tmp_path / "il.parquet", ("--model", "rhoselect.models:mlp")
    small = ("--set", "model.args.width=1", "--epochs", "1", "--batch", "64")
    fit = ("il", "fit", "--data", dataset_dir, "--out", out, *model, *small)
    *_, told = made(*fit, "--target", tiny_config).out.splitlines()
    assert told.startswith("warning: irreducible losses: their model has ")
    assert "after 20 uniform steps; below " in told
    result = rhoctl(*fit, "--overwrite", "--target", tmp_path / "missing.toml")
    assert (result.code, result.err.count("\n")) == (2, 1) and "missing.toml: no such" in result.err
