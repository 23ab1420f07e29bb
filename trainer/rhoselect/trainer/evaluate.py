"""Evaluation of a task on a split, by a replica with running BatchNorm statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rhoselect.data import SplitPoints
from rhoselect.models.replica import Replica
from rhoselect.tasks import Metrics, Task
from rhoselect.tasks.base import main_figure
from rhoselect.trainer.reading import read_ahead
from rhoselect.types import Indices


def evaluate(
    task: Task,
    replica: Replica,
    points: SplitPoints,
    batch: int,
    check: Callable[[], object],
) -> Metrics:
    """What ``task`` measures under the weights that ``replica`` has loaded, on ``points``,
    ``batch`` of them in a forward; as "metric" the main figure once more.

    Raises ModelError of a task that does not measure it, and what ``check`` raises, which is called
    before each batch.
    """

    def parts() -> Iterator[Indices]:
        indices = points.indices
        for start in range(0, len(indices), batch):
            check()
            yield indices[start : start + batch]

    found = replica.evaluate(read_ahead(points, parts(), replica.device))
    return {"metric": main_figure(task, found), **found}
