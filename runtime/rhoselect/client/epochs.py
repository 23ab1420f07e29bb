"""The batches of a ``SelectionClient`` as a DataLoader that transformers' Trainer can follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rhoselect.client.batch import SelectionBatch
from rhoselect.client.client import SelectionClient
from rhoselect.nest import Nest

SELECTION = "selection"
"""The name under which a part of a batch that was sampled has its (indices [n], weights [n])."""


class Epochs:
    """A batch sampler: an iteration is an epoch of ``steps`` optimizer steps, of ``parts``
    micro-batches each.

    The Trainer skips what a resumed epoch has had, so its first iteration begins with ``skipped``
    empty micro-batches, which are not selected.
    """

    def __init__(self, selection: SelectionClient, steps: int, parts: int) -> None:
        self.selection, self.steps, self.parts = selection, steps, parts
        self.skipped = self.part = 0
        self.current: SelectionBatch | None = None

    def __len__(self) -> int:
        return self.steps * self.parts

    def __iter__(self) -> Iterator[list[int]]:
        skipped, self.skipped = self.skipped, 0
        yield from ([] for _ in range(skipped))
        for batch in islice(self.selection, self.steps - skipped // self.parts):
            self.current = batch
            for part, indices in enumerate(batch.indices.chunk(self.parts)):
                self.part = part
                yield indices.tolist()

    def told(self) -> dict[str, float]:
        """How the last batch was selected, for a log: the mean of its points' scores, and the age
        of the weights that scored them in steps; nothing where a service knows it."""
        batch = self.current
        if batch is None or batch.scores is None:
            return {}
        score, age = float(batch.scores.mean()), max(0, batch.step - batch.version)
        return {"selection_score": score, "selection_staleness": age}


class Parts(Dataset[Any]):
    """The micro-batches of ``epochs``: of one part the batch as it was selected, else the items of
    the part, which ``join`` joins."""

    def __init__(self, data: Any, join: Callable[[list[Any]], Any], epochs: Epochs) -> None:
        self._data, self._join, self._epochs = data, join, epochs

    def __len__(self) -> int:
        return len(self._data)

    def __getitems__(self, indices: list[int]) -> Any:
        """The content of the next micro-batch, whose points are ``indices``."""
        batch, parts = self._epochs.current, self._epochs.parts
        assert batch is not None, "the sampler has a batch"
        content: Any = batch.inputs
        if parts > 1:
            content = self._join([self._data[index] for index in indices])
        weights = batch.weights.chunk(parts)[self._epochs.part]
        if isinstance(content, Mapping) and not bool((weights == 1).all()):
            return {**content, SELECTION: (torch.tensor(indices), weights)}
        return content


def loader_of(epochs: Epochs, inner: Any) -> Any:
    """A DataLoader of ``epochs`` over the points that the DataLoader ``inner`` reads. Its random
    numbers are its own."""
    data = Parts(inner.dataset, inner.collate_fn, epochs)
    own: Any = DataLoader(
        data, batch_sampler=epochs, collate_fn=_as_it_is, generator=torch.Generator()
    )
    return own


def _as_it_is(content: Nest) -> Nest:
    return content


def taken(inputs: Any) -> tuple[Any, tuple[Tensor, Tensor] | None]:
    """The model's inputs, and the (indices [n], weights [n]) of a part that was sampled."""
    if not isinstance(inputs, Mapping) or SELECTION not in inputs:
        return inputs, None
    rest = {name: each for name, each in inputs.items() if name != SELECTION}
    return rest, inputs[SELECTION]
