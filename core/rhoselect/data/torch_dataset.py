"""Map-style torch data sets by import path, read by index."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rhoselect.data.base import Labels, Origins, Span, SplitPoints, span_of
from rhoselect.data.collation import disordered, dropped, unlike
from rhoselect.data.factories import opened_parts, refused
from rhoselect.data.ids import check_ids
from rhoselect.data.repeatable import REPEATABLE, fault
from rhoselect.errors import DataError, listed
from rhoselect.importing import one_line
from rhoselect.nest import Nest, leaves, moved
from rhoselect.tasks import Task
from rhoselect.types import Batch, Indices

HASHED_POINTS = 64


class TorchDataset:
    """``factory(split=name, **args)`` for the splits train, holdout and test, one after the other.

    Each must give a map-style data set of examples that ``task`` collates. holdout is absent if the
    factory raises ValueError or KeyError for it. An item must depend on its index alone: the same
    point is scored and then trained on, by different processes. The points of the fingerprint are
    read twice to see that.

    ``classes`` is the train data set's attribute of that name (a number, or a sequence of names);
    without one, it is the greatest label + 1, if the task has labels. They are the attribute
    ``class_labels`` [N] of each data set, or all items are read once.
    int64 inputs, or ``input_ids`` of a dict, are token ids, of which the model knows
    ``vocabulary``, if that is known. An attribute of that name says how many there are: ``ids``.

    ``fingerprint`` hashes the lengths, 64 points at even distances over all splits, and the
    attributes ``fingerprint`` (texts that identify the content) or, without those, import path and
    arguments: then a change of other points goes unnoticed.
    """

    def __init__(
        self, path: str, args: Mapping[str, Any], task: Task, vocabulary: int | None = None
    ) -> None:
        self._parts = opened_parts(path, args)
        lengths = {name: len(part) for name, part in self._parts.items()}
        ends = np.cumsum([0, *lengths.values()]).tolist()
        self.splits: dict[str, Span] = dict(zip(lengths, pairwise(ends), strict=True))
        self.path, self.task, self.vocabulary = path, task, vocabulary
        self.ids: int | None = getattr(self._parts["train"], "vocabulary", None)
        if self.ids is not None and vocabulary is not None and vocabulary < self.ids:
            raise refused(
                path,
                f"token ids from 0 to {self.ids - 1}",
                f"those below {vocabulary}, which the model knows; set model.args.vocabulary",
            )
        first = Batch(np.zeros(1, np.int64), self.collate([self.item("train", 0)], [0]))
        self._labels: dict[str, Any] = {}
        if self.label("train", 0) is not None:
            known = {
                name: getattr(part, "class_labels", None) for name, part in self._parts.items()
            }
            self._labels = {name: labels for name, labels in known.items() if labels is not None}
        one = isinstance(first.inputs, Tensor)
        self.input_shape: tuple[int, ...] = tuple(first.inputs.shape[1:]) if one else ()
        named = getattr(self._parts["train"], "classes", None)
        self.class_names = tuple(map(str, named)) if isinstance(named, Sequence) else None
        self.classes = self._classes(first)
        made: list[Any] = [getattr(part, "fingerprint", None) for part in self._parts.values()]
        made = [path, dict(args)] if None in made else made
        header = json.dumps([*made, lengths], sort_keys=True, default=str)
        self.fingerprint = self._fingerprint(header)
        self._check_collation()

    def split(self, name: str) -> TorchPoints:
        """The points of a split. Raises DataError for an unknown name."""
        return TorchPoints(self, span_of(name, self.splits), name)

    def item(self, name: str, place: int) -> Any:
        """An example of a split. Raises DataError."""
        try:
            return self._parts[name][place]
        except DataError as error:
            raise DataError(f"data.dataset {self.path!r}: item {place}: {error}") from None
        except Exception as error:  # the user's code: anything may come out of it
            raise refused(
                self.path, f"item {place}: {one_line(error)}", "examples by their place"
            ) from error

    def label(self, name: str, place: int) -> int | None:
        """The class of an example, if the task has classes. Raises DataError."""
        if name in self._labels:
            return int(self._labels[name][place])
        try:
            return self.task.label(self.item(name, place))
        except DataError as error:
            raise DataError(f"data.dataset {self.path!r}: item {place}: {error}") from None

    def collate(self, examples: Sequence[Any], places: Sequence[int]) -> Nest:
        """What the task makes of the examples at ``places``. Raises DataError."""
        items = f"data.dataset {self.path!r}: items {listed(places, 3)}"
        try:
            content = self.task.collate(examples)
        except Exception as error:  # the user's code: anything may come out of it
            mend = f"got {one_line(error)}, allowed examples of which its collate makes a batch"
            reason = error if isinstance(error, DataError) else f"{mend}, of one, too"
            raise DataError(f"{items}: {reason}") from error
        if wrong := dropped(content, len(examples)):
            raise DataError(f"{items}: the collator of the task gave {wrong}")
        return content

    def _classes(self, first: Batch) -> int:
        train = self._parts["train"]
        named = getattr(train, "classes", None)
        if isinstance(named, int):
            return named
        if isinstance(named, Sequence):
            return len(named)
        if self.label("train", 0) is None:
            return self.task.outputs(first)
        labels = {self.label("train", place) or 0 for place in range(len(train))}
        count = 1 + max(labels)
        if len(labels) < count:
            logging.warning(
                "data.dataset %r: %d of %d classes have no point in train, whose labels are %s",
                *(self.path, count - len(labels), count, listed(sorted(labels))),
            )
        return count

    def _check_collation(self) -> None:
        """Raise DataError unless batches keep the order of their examples."""
        size = len(self._parts["train"])
        places = sorted({0, size // 2, size - 1})
        examples = [self.item("train", place) for place in places]
        collate = partial(self.collate, places=places)
        if len(places) == 3 and (wrong := disordered(collate, examples)):
            raise DataError(
                f"data.dataset {self.path!r}: items {listed(places)}: the collator of the task gave"
                f" {wrong}"
            )

    def _fingerprint(self, header: str) -> str:
        total = hashlib.sha256(header.encode())
        points, first = max(stop for _, stop in self.splits.values()), self.item("train", 0)
        for point in np.linspace(0, points - 1, min(HASHED_POINTS, points)).astype(int).tolist():
            for name, (start, stop) in self.splits.items():
                if start <= point < stop:
                    self._check_repeatable(name, point - start)
                    example = self.item(name, point - start)
                    if wrong := unlike(example, first):
                        where = f"item {point - start} of {name}"
                        raise DataError(f"data.dataset {self.path!r}: {where}: got {wrong}")
                    for tensor in leaves(self.collate([example], [point - start])):
                        flat = tensor.cpu().contiguous().reshape(-1)
                        total.update(flat.view(torch.uint8).numpy().data)
        return total.hexdigest()

    def _check_repeatable(self, name: str, place: int) -> None:
        """Raise DataError if an item differs when it is read twice, or uses random numbers that
        other threads use."""
        if wrong := fault(lambda: self.item(name, place)):
            raise refused(
                self.path,
                f"{wrong} when item {place} of {name} was read again",
                f"{REPEATABLE}; leave random augmentation out, or import the data and use"
                " [augment]",
            )


class TorchPoints(SplitPoints):
    """A split of a TorchDataset. Reads point by point; import the data when that is too slow."""

    def __init__(self, dataset: TorchDataset, span: Span, name: str) -> None:
        super().__init__(span)
        self._dataset, self._name = dataset, name
        self.labelled = dataset.label("train", 0) is not None

    def read(self, indices: Indices, device: torch.device, epochs: Indices | None = None) -> Batch:
        """What the task makes of the examples, in any epoch the same.

        Raises DataError for a label beyond ``classes``, and an unknown token id.
        """
        dataset, places = self._dataset, self._places(indices)
        examples = [dataset.item(self._name, place) for place in places]
        batch = Batch(indices, dataset.collate(examples, places))
        inputs = batch.inputs
        ids = inputs.get("input_ids") if isinstance(inputs, Mapping) else inputs
        if isinstance(ids, Tensor) and ids.dtype == torch.int64:
            where, vocabulary = f"data.dataset {dataset.path!r}", dataset.vocabulary
            check_ids(ids.numpy(force=True), indices, where, vocabulary, None)
        for place, example in zip(places, examples, strict=True):
            label = dataset.task.label(example)
            if label is not None and not 0 <= label < dataset.classes:
                raise refused(
                    dataset.path, f"label {label} of item {place}", f"0 to {dataset.classes - 1}"
                )
        return Batch(indices, moved(batch.content, device))

    def labels(self, indices: Indices) -> Labels:
        """Labels [C] int64; reads the whole points. Raises DataError of a task without labels."""
        found = [self._dataset.label(self._name, place) for place in self._places(indices)]
        if None in found:
            raise refused(self._dataset.path, "points without labels", "a task with classes here")
        return np.array(found, np.int64)

    def clean_labels(self, indices: Indices) -> Labels | None:
        """None: a torch data set has no second label."""
        return None

    def origins(self, indices: Indices) -> Origins:
        """The split of that name, and the place in it."""
        row = np.ma.MaskedArray(indices - self.start)
        return Origins(np.full(len(indices), self._name, object), row)

    def _places(self, indices: Indices) -> list[int]:
        """The places in the split of ``indices`` [C]."""
        places: list[int] = (indices - self.start).tolist()
        assert all(0 <= place < len(self) for place in places), "index outside the split"
        return places
