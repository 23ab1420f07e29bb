"""The hashes of a data set: the fingerprint of its content, and that of a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from rhoselect.data.base import Span
from rhoselect.data.blocks import Blobs
from rhoselect.data.manifest import Array, Inputs


def content_hash(
    inputs: Inputs,
    classes: int,
    splits: Mapping[str, Span],
    blocks: Iterable[tuple[Array | Blobs, Array, Array | None]],
) -> str:
    """The fingerprint: sha256 over the header and each column's bytes, in row order.

    ``blocks`` yields (inputs, labels, clean labels or None) of successive rows. How the rows are
    cut into blocks does not matter, since each column is hashed by itself. Encoded inputs count as
    stored, bytes and lengths.
    """
    columns = [hashlib.sha256() for _ in range(3)]
    lengths = hashlib.sha256()
    for stored, labels, clean in blocks:
        values: Array = stored.data if isinstance(stored, Blobs) else stored
        if isinstance(stored, Blobs):
            lengths.update(np.diff(stored.offsets).data)
            values = stored.data[stored.offsets[0] : stored.offsets[-1]]
        for column, part in zip(columns, (values, labels, clean), strict=True):
            if part is not None:
                column.update(np.ascontiguousarray(part).reshape(-1).data)
    # Left out where there is none, an encoding does not change the fingerprints of older data sets.
    described = inputs.model_dump(exclude_none=True)
    header = {"inputs": described, "classes": classes, "splits": dict(splits)}
    total = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for column in columns if inputs.encoding is None else [*columns, lengths]:
        total.update(column.digest())
    return total.hexdigest()


def file_hash(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
