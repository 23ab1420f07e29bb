"""The task in docs/tasks.md works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from rhoselect.tasks import Task
from rhoselect.tasks.base import losses_of
from rhoselect.types import Batch
from task_code import Points, TwoViews

PAGE = Path(__file__).parent.parent / "docs" / "tasks.md"


def test_the_worked_example_is_a_task() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    names: dict[str, type[Task]] = {}
    exec(code, names)
    task, points, model = names["Fit"](), Points("train", "views"), TwoViews().eval()
    batch = Batch(np.arange(5), task.collate([points[place] for place in range(5)]))
    with torch.no_grad():
        losses = losses_of(task, model, batch).losses
        assert task.evaluate(model, [batch])["error"] == losses.mean().item()
    assert losses.shape == (5,)
