"""The batches of a ``SelectionClient`` as a DataLoader that transformers' Trainer can follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rhoselect.client.batch import SelectionBatch
from rhoselect.client.client import SelectionClient
from rhoselect.errors import DataError
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
        self._seen: dict[str, list[float]] = {}

    def __len__(self) -> int:
        return self.steps * self.parts

    def __iter__(self) -> Iterator[list[int]]:
        skipped, self.skipped = self.skipped, 0
        yield from ([] for _ in range(skipped))
        for batch in islice(self.selection, self.steps - skipped // self.parts):
            self.current = batch
            self._note(batch)
            for part, indices in enumerate(batch.indices.chunk(self.parts)):
                self.part = part
                yield indices.tolist()

    def told(self) -> dict[str, float]:
        """How batches were selected since the last call, as means over their steps: the score of
        the points chosen for this process, the share of candidates that is kept, the age in steps
        of the weights that scored, and the rank agreement of those steps that were audited."""
        seen, self._seen = self._seen, {}
        return {f"selection_{name}": fmean(values) for name, values in seen.items()}

    def _note(self, batch: SelectionBatch) -> None:
        section = self.selection.config.selection
        found = {
            "score": None if batch.scores is None else float(batch.scores.mean()),
            "share_kept": section.n_b / section.n_B,
            "staleness": float(max(0, batch.step - batch.version)),
            "rank_agreement": batch.agreement,
        }
        for name, value in found.items():
            if value is not None:
                self._seen.setdefault(name, []).append(value)


class Parts(Dataset[Any]):
    """The micro-batches of ``epochs``: of one part the batch as it was selected, else the items of
    the part, which ``join`` joins."""

    def __init__(self, data: Any, join: Callable[[list[Any]], Any], epochs: Epochs) -> None:
        self._data, self._join, self._epochs = data, join, epochs

    def __len__(self) -> int:
        return len(self._data)

    def __getitems__(self, indices: list[int]) -> Any:
        """The content of the next micro-batch, whose points are ``indices``. Raises DataError."""
        batch, parts = self._epochs.current, self._epochs.parts
        assert batch is not None, "the sampler has a batch"
        content: Any = batch.inputs
        if parts > 1:
            first = self._epochs.selection.first_index
            content = self._join([self._data[index - first] for index in indices])
        if batch.labels is not None:
            _check_labels(content, batch.labels.chunk(parts)[self._epochs.part], indices)
        weights = batch.weights.chunk(parts)[self._epochs.part]
        if isinstance(content, Mapping) and not bool((weights == 1).all()):
            return {**content, SELECTION: (torch.tensor(indices), weights)}
        return content


def _check_labels(content: Any, known: Tensor, indices: list[int]) -> None:
    """Raise DataError if points have other labels than a service knows of them."""
    own = content.get("labels") if isinstance(content, Mapping) else None
    if not isinstance(own, Tensor) or own.shape != known.shape:
        return
    for index, mine, theirs in zip(indices, own.tolist(), known.tolist(), strict=True):
        if mine != theirs:
            raise DataError(
                f"train_dataset: got label {mine} for point {index}, allowed {theirs}, as the"
                " service has it: its train split, in its order; give the Trainer the same points"
            )


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
