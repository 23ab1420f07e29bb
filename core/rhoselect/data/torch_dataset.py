"""Map-style torch data sets by import path, read by index."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rhoselect.data.base import Labels, Origins, Span, SplitPoints, span_of
from rhoselect.data.ids import check_ids
from rhoselect.data.repeatable import REPEATABLE, fault
from rhoselect.errors import ConfigError, DataError, listed
from rhoselect.importing import load_object, one_line
from rhoselect.types import Batch, Indices

HASHED_POINTS = 64
INPUT_DTYPES = (torch.float32, torch.int64)


class TorchDataset:
    """``factory(split=name, **args)`` for the splits train, holdout and test, one after the other.

    Each must give a map-style data set of (input, label): a tensor or array of float32 or int64,
    alike in shape, and an integer. holdout is absent if the factory raises ValueError or KeyError
    for it. An item must depend on its index alone: the same point is scored and then trained on, by
    different processes. The points of the fingerprint are read twice to see that.

    ``classes`` is the train data set's attribute of that name (a number, or a sequence of names);
    without one, all its items are read once for the greatest label + 1. int64 inputs are token ids,
    of which the model knows ``vocabulary``, if that is known.

    ``fingerprint`` hashes the import path, the arguments, the lengths, and 64 points at even
    distances over all splits: a change of other points goes unnoticed.
    """

    def __init__(self, path: str, args: Mapping[str, Any], vocabulary: int | None = None) -> None:
        if "split" in args:
            raise ConfigError("data.args: got 'split', allowed any other name; the splits are all")
        factory = load_object(path, "data.dataset")
        self._parts: dict[str, Any] = {}
        for name in ("train", "holdout", "test"):
            try:
                self._parts[name] = factory(split=name, **args)
            except Exception as error:  # the user's code: anything may come out of it
                if name == "holdout" and isinstance(error, ValueError | KeyError):
                    continue
                raise _refused(path, f"{name}: {one_line(error)}", "a data set") from error
            if not _is_map_style(self._parts[name]):
                raise _refused(path, f"{name}: no __len__ or no points", "a map-style data set")
        lengths = {name: len(part) for name, part in self._parts.items()}
        ends = np.cumsum([0, *lengths.values()]).tolist()
        self.splits: dict[str, Span] = dict(zip(lengths, pairwise(ends), strict=True))
        self.path, self.vocabulary = path, vocabulary
        self.input_shape: tuple[int, ...] = tuple(_item(path, self._parts["train"], 0)[0].shape)
        named = getattr(self._parts["train"], "classes", None)
        self.class_names = tuple(map(str, named)) if isinstance(named, Sequence) else None
        self.classes = self._classes()
        header = json.dumps([path, dict(args), lengths], sort_keys=True, default=str)
        self.fingerprint = self._fingerprint(header)

    def split(self, name: str) -> TorchPoints:
        """The points of a split. Raises DataError for an unknown name."""
        return TorchPoints(self, self._parts, span_of(name, self.splits), name)

    def _classes(self) -> int:
        train = self._parts["train"]
        named = getattr(train, "classes", None)
        if isinstance(named, int):
            return named
        if isinstance(named, Sequence):
            return len(named)
        labels = {_item(self.path, train, place)[1] for place in range(len(train))}
        count = 1 + max(labels)
        if len(labels) < count:
            logging.warning(
                "data.dataset %r: %d of %d classes have no point in train, whose labels are %s",
                *(self.path, count - len(labels), count, listed(sorted(labels))),
            )
        return count

    def _fingerprint(self, header: str) -> str:
        total = hashlib.sha256(header.encode())
        points = max(stop for _, stop in self.splits.values())
        for point in np.linspace(0, points - 1, min(HASHED_POINTS, points)).astype(int).tolist():
            for name, (start, stop) in self.splits.items():
                if start <= point < stop:
                    value, label = self._repeated(name, point - start)
                    total.update(value.cpu().contiguous().numpy().tobytes())
                    total.update(label.to_bytes(8, "little", signed=True))
        return total.hexdigest()

    def _repeated(self, name: str, place: int) -> tuple[Tensor, int]:
        """An item that is read twice. Raises DataError if it differs, or uses random numbers that
        other threads use."""
        if wrong := fault(lambda: _item(self.path, self._parts[name], place)):
            raise _refused(
                self.path,
                f"{wrong} when item {place} of {name} was read again",
                f"{REPEATABLE}; leave random augmentation out, or import the data and use"
                " [augment]",
            )
        return _item(self.path, self._parts[name], place)


class TorchPoints(SplitPoints):
    """A split of a TorchDataset. Reads point by point; import the data when that is too slow."""

    def __init__(
        self, dataset: TorchDataset, parts: Mapping[str, Any], span: Span, name: str
    ) -> None:
        super().__init__(span)
        self._dataset, self._part, self._name = dataset, parts[name], name

    def read(self, indices: Indices, device: torch.device, epochs: Indices | None = None) -> Batch:
        """Inputs [C, *input_shape] as the data set gives them in any epoch, labels [C] int64.

        Raises DataError for a label beyond ``classes``, an unknown token id, and an input of
        another shape.
        """
        items, labels = self._items(indices)
        inputs = torch.stack(items)
        if inputs.dtype == torch.int64:
            where, vocabulary = f"data.dataset {self._dataset.path!r}", self._dataset.vocabulary
            check_ids(inputs.numpy(force=True), indices, where, vocabulary, None)
        return Batch(indices, inputs.to(device), torch.from_numpy(labels).to(device))

    def labels(self, indices: Indices) -> Labels:
        """Labels [C] int64; reads the whole points."""
        return self._items(indices)[1]

    def clean_labels(self, indices: Indices) -> Labels | None:
        """None: a torch data set has no second label."""
        return None

    def origins(self, indices: Indices) -> Origins:
        """The split of that name, and the place in it."""
        row = np.ma.MaskedArray(indices - self.start)
        return Origins(np.full(len(indices), self._name, object), row)

    def _items(self, indices: Indices) -> tuple[list[Tensor], Labels]:
        path, shape, classes = (
            self._dataset.path,
            self._dataset.input_shape,
            self._dataset.classes,
        )
        inputs, labels = [], []
        for point in indices.tolist():
            assert self.start <= point < self.stop, "index outside the split"
            value, label = _item(path, self._part, point - self.start)
            if tuple(value.shape) != shape:
                raise _refused(path, f"an input {list(value.shape)}", f"{list(shape)} in all")
            if not 0 <= label < classes:
                raise _refused(path, f"label {label}", f"0 to {classes - 1}")
            inputs.append(value)
            labels.append(label)
        return inputs, np.array(labels, np.int64)


def _item(path: str, part: Any, place: int) -> tuple[Tensor, int]:
    """One point, checked: input float32 or int64, label an integer."""
    try:
        value, label = part[place]
        tensor, number = torch.as_tensor(value), index(label)
    except Exception as error:  # the user's code: anything may come out of it
        raise _refused(
            path, f"item {place}: {one_line(error)}", "(tensor or array, integer)"
        ) from error
    if tensor.dtype not in INPUT_DTYPES:
        raise _refused(path, f"inputs {tensor.dtype}", "float32 or int64; convert in the data set")
    if tensor.ndim == 0:
        raise _refused(path, "a single number as input", "one dimension or more")
    return tensor, number


def _is_map_style(part: Any) -> bool:
    return hasattr(part, "__getitem__") and hasattr(part, "__len__") and len(part) > 0


def _refused(path: str, got: str, allowed: str) -> DataError:
    return DataError(f"data.dataset {path!r}: got {got}, allowed {allowed}")
