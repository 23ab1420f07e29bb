"""What a task makes of examples goes over gRPC as tensors and a described structure."""

from __future__ import annotations

import json

import pytest
import torch

from rhoselect.config.sections import TaskConfig
from rhoselect.nest import described, leaves, rebuilt
from rhoselect.tasks import get_task


def test_a_nest_comes_back() -> None:
    nest = {
        "a": torch.ones(2),
        "b": [torch.zeros(1, 2), ("x", None, {"c": torch.tensor(3)})],
        "d": 4,
    }
    structure, tensors = described(nest)
    back = rebuilt(json.loads(json.dumps(structure)), tensors)
    assert list(tensors) == ["a", "b.0", "b.1.2.c"]
    assert back["b"][1][:2] == ("x", None) and back["d"] == 4
    assert all(map(torch.equal, leaves(nest), leaves(back)))
    with pytest.raises(ValueError, match="got a set in it, allowed tensors, numbers and texts"):
        described({"a": {1}})


def test_the_registry_makes_a_task_of_its_arguments() -> None:
    assert get_task(TaskConfig(name="task_code:Fit", args={"scale": 2.0})).scale == 2.0  # type: ignore[attr-defined]
