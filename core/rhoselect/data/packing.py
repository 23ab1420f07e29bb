"""Packed sequences: a view of a tokenised data set of Hugging Face in blocks of as many tokens."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from rhoselect.data.hub_folders import opened_split
from rhoselect.errors import ConfigError, DataError, listed


class Packed:
    """The documents of a split one after the other, in blocks of ``length`` tokens: dicts of
    ``input_ids`` [T] and ``document_ids`` [T], which number the documents of a block from 0.

    The last tokens of a split, fewer than ``length``, are left out. Lengths alone are read when it
    is opened; they take 8 bytes a document.
    """

    def __init__(self, split: str, path: str, length: int, column: str) -> None:
        table, content = opened_split(path, split)
        if column not in table.features:
            raise DataError(
                f"data.args.column: got {column!r}, allowed lists of token ids, as after"
                f" data.map(lambda row: tokenizer(row['text'])); columns are"
                f" {listed(table.features)}"
            )
        self._documents = table.select_columns([column]).with_format("arrow")
        self._column, self._length = column, length
        try:
            lengths = pc.fill_null(pc.list_value_length(self._documents[:][column]), 0)
        except pa.ArrowException:
            kind = table.features[column]
            raise DataError(f"data.args.column {column}: got {kind}, allowed lists") from None
        self._ends = np.cumsum(lengths.to_numpy(), dtype=np.int64)
        tokens = int(self._ends[-1]) if len(self._ends) else 0
        if not 1 <= length <= tokens:
            raise ConfigError(
                f"data.args.length: got {length}, allowed 1 to {tokens}, the tokens of {split!r}"
            )
        self._blocks = tokens // length
        self.fingerprint = f"{content} {column} packed {length}"

    def __len__(self) -> int:
        return self._blocks

    def __getitem__(self, block: int) -> dict[str, Tensor]:
        start, stop = block * self._length, (block + 1) * self._length
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right").tolist()
        begin = int(self._ends[first - 1]) if first else 0
        lengths = np.diff(self._ends[first : last + 1], prepend=begin)
        ids = pc.list_flatten(self._documents[first : last + 1][self._column]).to_numpy()
        numbers = np.repeat(np.arange(len(lengths)), lengths)
        part = slice(start - begin, stop - begin)
        return {
            "input_ids": torch.from_numpy(ids[part].astype(np.int64)),
            "document_ids": torch.from_numpy(numbers[part]),
        }


def packed(split: str, path: str, length: int = 512, column: str = "input_ids") -> Packed:
    """A tokenised split in blocks: see ``Packed``. Raises KeyError for an absent holdout."""
    return Packed(split, path, length, column)
