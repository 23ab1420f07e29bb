"""Data sets of Hugging Face in place, without an import: a folder of ``save_to_disk``, or of
parquet, arrow or JSON-lines files. Needs the extra "hugging-face".

``rows`` and ``texts``, and ``packed`` of ``rhoselect.data.packing``, are factories for
``data.dataset``; their keywords are ``data.args``. Of each, ``fingerprint`` identifies the content,
wherever the folder is; ``class_labels`` [N] are all labels, if they are integers, and ``classes``
their names, if they have any.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rhoselect.data.hub_folders import opened_split, opened_tokenizer
from rhoselect.errors import ConfigError, DataError, listed

LABELS = ("labels", "label")
STRINGS = ("string", "large_string")


class Table:
    """A split's columns ``inputs``, by default all but texts and labels, and ``label``, by default
    "labels" or "label" if there is one. Raises DataError."""

    def __init__(self, split: str, path: str, inputs: str, label: str) -> None:
        table, self.fingerprint = opened_split(path, split)
        features = table.features
        self.label = label or next((name for name in LABELS if name in features), "")
        types = {name: str(getattr(kind, "dtype", "")) for name, kind in features.items()}
        self.inputs = [name.strip() for name in inputs.split(",") if name.strip()] or [
            name
            for name, kind in types.items()
            if name not in (self.label, *LABELS) and kind not in STRINGS
        ]
        columns = [*self.inputs, *filter(None, [self.label])]
        if others := [name for name in columns if name not in features]:
            raise DataError(f"data.args: got column {others[0]!r}, allowed {listed(features)}")
        if not self.inputs:
            raise DataError(
                f"data.args.path {path}: got columns of texts and labels alone; name one in"
                " data.args.text of rhoselect.data.hugging_face:texts"
            )
        self.rows = table.select_columns(columns)
        self.fingerprint += f" {','.join(columns)}"
        if names := getattr(features.get(self.label), "names", None):
            self.classes = tuple(names)
        if "int" in types.get(self.label, ""):
            self.class_labels = np.asarray(self.rows.with_format("numpy")[:][self.label])

    def __len__(self) -> int:
        return len(self.rows)


class Rows(Table):
    """Pairs (input, label) if ``inputs`` names one column; else dicts, with "labels"."""

    def __init__(self, split: str, path: str, inputs: str, label: str) -> None:
        super().__init__(split, path, inputs, label)
        self._pairs = bool(inputs) and len(self.inputs) == 1 and bool(self.label)
        self.fingerprint += " pairs" if self._pairs else ""

    def __getitem__(self, place: int) -> Any:
        row = self.rows[place]
        found = {name: tensor_of(row[name]) for name in self.inputs}
        if self._pairs:
            return found[self.inputs[0]], row[self.label]
        return found | ({"labels": tensor_of(row[self.label])} if self.label else {})


class Texts(Table):
    """Dicts of what a tokenizer makes of one or two texts, and "labels". The tokenizer's files are
    in ``fingerprint``; ``vocabulary`` is how many ids it has."""

    def __init__(
        self, split: str, path: str, tokenizer: str, text: str, label: str, length: int
    ) -> None:
        if length < 1:
            raise ConfigError(f"data.args.length: got {length}, allowed 1 or more tokens")
        self._tokenizer, files = opened_tokenizer(tokenizer)
        super().__init__(split, path, text, label)
        self.fingerprint += f" {files} {length}"
        self.vocabulary = len(self._tokenizer)
        self._length, self._lock = length, threading.Lock()

    def __getitem__(self, place: int) -> Any:
        row = self.rows[place]
        parts = [row[name] for name in self.inputs]
        if len(parts) > 2 or not all(isinstance(part, str) for part in parts):
            kinds = listed(type(part).__name__ for part in parts)
            raise DataError(f"got {kinds}, allowed one or two texts (str)")
        with self._lock:  # a tokenizer that cuts serves one thread at a time
            found = self._tokenizer(*parts, truncation=True, max_length=self._length)
        example = {name: torch.tensor(ids) for name, ids in found.items()}
        return example | ({"labels": tensor_of(row[self.label])} if self.label else {})


def tensor_of(value: Any) -> Tensor | str:
    """Numbers and lists as a tensor, of floats float32; a picture as float32 [C, H, W] from 0 to 1;
    a text as it is."""
    if isinstance(value, str):
        return value
    if hasattr(value, "__array_interface__"):
        pixels = torch.tensor(np.asarray(value))
        channels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
        return channels.float() / 255
    return torch.tensor(value)


def rows(split: str, path: str, inputs: str = "", label: str = "") -> Rows:
    """The rows of a split as they are: pairs (input, label) if ``inputs`` names one column; else
    dicts of the columns that it names, with commas between them. Raises KeyError for an absent
    holdout, DataError."""
    return Rows(split, path, inputs, label)


def texts(
    split: str, path: str, tokenizer: str, text: str = "text", label: str = "", length: int = 512
) -> Texts:
    """Column ``text``, or two with a comma between them, through the tokenizer in a folder, cut to
    ``length`` ids: dicts of ``input_ids``, ``attention_mask`` and what else it gives. Raises
    KeyError for an absent holdout, DataError, ConfigError."""
    return Texts(split, path, tokenizer, text, label, length)
