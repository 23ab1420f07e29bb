"""Evaluation of a task on the test split, by a replica with running BatchNorm statistics or by the
ranks that have parts of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import Protocol

import torch

from rhoselect.inputs import RunInputs
from rhoselect.tasks import Metrics
from rhoselect.tasks.base import main_figure
from rhoselect.trainer.reading import read_ahead
from rhoselect.types import Batch, Indices


class Evaluated(Protocol):
    """A model that is evaluated: a `Replica`, or a divided one, by all ranks at once."""

    device: torch.device

    def evaluate(self, batches: Iterable[Batch]) -> Metrics:
        """What the task measures on ``batches``, without gradients."""
        ...


def evaluate(
    inputs: RunInputs,
    measured: Evaluated,
    check: Callable[[], object],
    reader: Executor | None = None,
) -> Metrics:
    """What the task measures under the weights that ``measured`` has; as "metric" the main figure
    once more. ``reader``: see `read_ahead`.

    Raises ModelError of a task that does not measure it, and what ``check`` raises, which is called
    before each batch.
    """
    points, batch = inputs.test, inputs.config.trainer.eval_batch

    def parts() -> Iterator[Indices]:
        indices = points.indices
        for start in range(0, len(indices), batch):
            check()
            yield indices[start : start + batch]

    found = measured.evaluate(read_ahead(points, parts(), measured.device, reader))
    return {"metric": main_figure(inputs.task, found), **found}
