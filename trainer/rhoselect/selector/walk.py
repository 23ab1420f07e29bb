"""The selector of InfoBatch, which goes through whole epochs and drops points, without windows.

    plan positions   | epoch 0          | epoch 1          | epoch 2 …
    batches          |--0--|--1--|--2-- |  --|---3---|---4-|-- …     longer where points are dropped

A batch is the next n_b points of the plan's order that are not dropped; it may reach into the next
epoch. The mean loss that decides is taken when the walk enters an epoch.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from rhoselect.inputs import SelectionInputs
from rhoselect.metrics import Metrics
from rhoselect.selection.infobatch import Losses, Pruning, mean_of_known
from rhoselect.selection.interface import State
from rhoselect.selector.picker import PickedPoints
from rhoselect.selector.selector import SelectedBatch, Selector
from rhoselect.selector.windows import Windows
from rhoselect.snapshots import SnapshotStore
from rhoselect.types import Layout, Snapshot


class WalkingSelector(Selector):
    """A selector that opens no windows and waits for nobody.

    Its ``state`` is in checkpoints and never published: ``losses`` [N] float32 in nats, each
    point's when it was last trained on, or NaN; ``position`` [] int64, where the walk goes on;
    ``mean`` [] float64, the mean loss of its epoch. Steps change it in place.
    """

    def __init__(
        self,
        inputs: SelectionInputs,
        layout: Layout,
        windows: Windows,
        snapshots: SnapshotStore,
        metrics: Metrics,
    ) -> None:
        super().__init__(inputs, layout, windows, None, snapshots, metrics)
        self._plan = inputs.plan
        self.needs_losses = True
        self.state = {
            "losses": torch.full((self._plan.n,), torch.nan),
            "position": torch.tensor(0),
            "mean": torch.tensor(torch.nan, dtype=torch.float64),
        }
        self._ranks = np.empty(0, np.int64)

    def begin(self, step: int, state: State | None = None, old: Iterable[Snapshot] = ()) -> None:
        """Go on from the ``state`` of a checkpoint, if there is one."""
        if state is not None:
            self.state = state

    def next(self, step: int) -> SelectedBatch:
        """The next n_b points. Nothing is dropped after the share ``infobatch.delta`` of steps."""
        asked_at, start = time.perf_counter(), int(self.state["position"])
        config = self._config
        drops = step < config.infobatch.delta * config.trainer.steps
        position, missing, parts = start, config.selection.n_b, []
        while missing:
            epoch, rank = divmod(position, self._plan.n)
            if rank == 0:
                self.state["mean"].fill_(mean_of_known(self._losses))
            end = min(position + missing, (epoch + 1) * self._plan.n)
            positions = np.arange(position, end, dtype=np.uint64)
            indices = self._plan.indices(positions)
            losses = self._losses[indices - self._plan.first_index]
            mean = float(self.state["mean"]) if drops else -np.inf
            kept, weights = Pruning(config.seed, epoch, mean, config.infobatch.r)(indices, losses)
            parts.append((positions[kept], indices[kept], weights[kept]))
            position, missing = end, missing - int(kept.sum())
        self.state["position"].fill_(position)
        chosen, indices, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
        self._ranks = indices - self._plan.first_index
        given = torch.from_numpy(weights) if drops else None
        points = PickedPoints(indices, self._plan.epochs(chosen), [0.0] * len(indices), given)
        waited_s = time.perf_counter() - asked_at
        return SelectedBatch(step, step, points, position - start, asked_at, waited_s)

    def report(self, labels: Tensor, losses: Tensor) -> None:
        """Keep the losses [n_b] of the last batch, without their weights."""
        self._losses[self._ranks] = losses.float().numpy()

    @property
    def _losses(self) -> Losses:
        """A view of the state's losses."""
        view: Losses = self.state["losses"].numpy()
        return view
