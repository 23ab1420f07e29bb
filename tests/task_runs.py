"""Small runs of several tasks: their settings, for the fixture ``task_config``."""

from __future__ import annotations

STEPS, n_b, n_B, CHUNK, LR = 8, 4, 16, 8, 3e-3
CONFIG = f"""
selection = {{ function = "loss", n_b = {n_b}, n_B = {n_B}, chunk = {CHUNK} }}
scorer = {{ precision = "fp32", device = "cpu" }}
trainer = {{ steps = {STEPS}, lr = {LR}, eval_every = 4, device = "cpu" }}
metrics.port = -1
"""
MLP = "model.args={width = 8, depth = 1}"
TASKS = {  # name: kind of items, task.name, more settings
    "two inputs": ("views", "task_code:Fit", ["model.factory=task_code:TwoViews"]),
    "causal LM": ("sequence", "causal_lm", ["model.factory=task_code:Recurrent"]),
    "regression": ("number", "regression", [MLP]),
    "multi-label": ("labels", "multi_label", [MLP]),
    "classification": ("class", "classification", [MLP]),
}


def settings(name: str, *more: str) -> list[str]:
    """Those of the task of this name, and ``more``."""
    kind, task, sets = TASKS[name]
    return [
        f"data={{dataset = 'task_code:Points', args = {{kind = '{kind}'}}}}",
        f"task.name={task}",
        *sets,
        *more,
    ]


def words(sets: list[str]) -> list[str]:
    """The flags of a command with these settings."""
    return [word for item in sets for word in ("--set", item)]
