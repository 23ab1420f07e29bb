"""Which points a data set of the user's own has: whether it shares some with another, and whether a
table of irreducible losses was made for it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rhoselect.data import SplitPoints
from rhoselect.data.il_table import IlMetadata
from rhoselect.errors import IrreducibleLossError, listed
from rhoselect.nest import Nest, leaves, mapped
from rhoselect.types import Indices

GIVEN = "given:"
"""Prefix of fingerprints of the user's own data."""
SAMPLED = 64
BYTES = 16
CPU = torch.device("cpu")


def identity(points: SplitPoints) -> dict[str, str]:
    """A hash of each part of the points, such as "inputs" or "input_ids", over some of them, and
    how many there are. Two models may need other parts of the same points."""
    hashes: dict[str, Any] = {}
    ranks = np.linspace(0, len(points) - 1, min(SAMPLED, len(points))).astype(np.int64)
    for parts in _parts(points, points.index_of(ranks)):
        for name, part in parts.items():
            hashes.setdefault(name, hashlib.blake2b(digest_size=BYTES)).update(_content(part))
    return {"points": str(len(points)), **{name: each.hexdigest() for name, each in hashes.items()}}


def check_made_for(path: Path, about: IlMetadata, points: SplitPoints) -> None:
    """Raise IrreducibleLossError for a table of other points of the user's own. Of a table that the
    command made only the number of points is known."""
    if not about.fingerprint.startswith(GIVEN):
        return
    ours = identity(points)
    differ = [name for name, value in ours.items() if about.data.get(name, value) != value]
    if differ or len(ours.keys() & about.data.keys()) == 1:  # "points"
        raise IrreducibleLossError(
            f"irreducible_losses {path}: made for data with other {listed(differ or about.data)},"
            " allowed these points in this order; fit them again, or give the numbers [N] of the"
            " table if the points are the same"
        )


def check_apart(points: SplitPoints, holdout: SplitPoints) -> None:
    """Raise IrreducibleLossError if a point is in both. It reads all of both once."""
    places = {digest: place for place, digest in enumerate(_digests(points))}
    learnt = [(places.get(digest), place) for place, digest in enumerate(_digests(holdout))]
    shared = [(known, place) for known, place in learnt if known is not None]
    if shared:
        known, place = shared[0]
        raise IrreducibleLossError(
            f"holdout: got {len(shared)} points of {len(learnt)} that are in data, too, such as"
            f" item {place}, which is item {known} of data, allowed none: a model remembers what it"
            " learnt; leave them out of holdout, cross-fit with folds=K, or allow them with config="
            '{"il": {"overlap": "allow"}}'
        )


def _digests(points: SplitPoints) -> Iterator[bytes]:
    for parts in _parts(points, points.indices):
        digest = hashlib.blake2b(digest_size=BYTES)
        for name, part in parts.items():
            digest.update(name.encode() + _content(part))
        yield digest.digest()


def _parts(points: SplitPoints, indices: Indices) -> Iterator[Mapping[str, Nest]]:
    """What a model and its loss get of each point, alone in a batch, by name."""
    for place in range(len(indices)):
        batch = points.read(indices[place : place + 1], CPU)
        named = isinstance(batch.inputs, Mapping)
        parts = dict(batch.inputs) if named else {"inputs": batch.inputs}
        yield parts if batch.labels is None else parts | {"labels": batch.labels}


def _content(nest: Nest) -> bytes:
    """The bytes of the tensors of a nest, and how they and other values lie in it."""
    return repr(mapped(nest, _form)).encode() + b"".join(map(_bytes, leaves(nest)))


def _form(tensor: Tensor) -> Any:
    return f"{tensor.dtype} {list(tensor.shape)}"


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
