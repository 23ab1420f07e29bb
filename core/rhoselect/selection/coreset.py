"""Selection via proxy (Coleman et al. 2020): a core-set chosen once, before training.

A small proxy model is trained on the train split; its predictive entropy on each point is kept in a
safetensors file, tied to its data set. A run keeps the points of greatest entropy.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rhoselect.errors import ConfigError
from rhoselect.types import Indices

METADATA_KEY = "rhoselect"


@dataclass(frozen=True)
class ProxyMetadata:
    """Where entropies come from; ``start`` is the data-set index of the first."""

    fingerprint: str
    start: int
    model: str
    tool: str
    seconds: float
    flops: int


@dataclass(frozen=True)
class CoreSet:
    """Which of the points start … start + len(members) - 1 are kept."""

    start: int
    members: npt.NDArray[np.bool_]
    metadata: ProxyMetadata

    def at(self, indices: Indices) -> npt.NDArray[np.bool_]:
        """Whether ``indices`` [C] are kept, [C]."""
        return self.members[indices - self.start]


def write_entropies(
    path: Path, entropies: npt.NDArray[np.float32], metadata: ProxyMetadata
) -> None:
    """Write the proxy's predictive entropies [N] in nats, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({"entropies": entropies}, beside, {METADATA_KEY: json.dumps(asdict(metadata))})
    beside.replace(path)


def read_core_set(path: Path, fingerprint: str, train: tuple[int, int], keep: float) -> CoreSet:
    """The share ``keep`` of the points ``train`` = [start, stop) that has the greatest entropies.

    Of equal ones the lower indices are kept. Raises ConfigError (one line) for a missing or
    unreadable file, one of another data set or of other points, and entropies that are not finite.
    """
    if not path.is_file():
        raise ConfigError(
            f"svp.table {path}: no such file; make it with 'rhoctl svp fit --data D --out {path}'"
        )
    try:
        with safe_open(path, framework="np") as file:
            metadata = TypeAdapter(ProxyMetadata).validate_json(file.metadata()[METADATA_KEY])
            entropies = file.get_tensor("entropies")
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            f"svp.table {path}: not a table of 'rhoctl svp fit' ({error}); fit it again"
        ) from None
    if metadata.fingerprint != fingerprint:
        raise ConfigError(
            f"svp.table {path}: made for data set {metadata.fingerprint[:12]}, allowed"
            f" {fingerprint[:12]} (data.path); run 'rhoctl svp fit' on this data set"
        )
    start, stop = train
    if metadata.start != start or entropies.shape != (stop - start,):
        raise ConfigError(
            f"svp.table {path}: got {list(entropies.shape)} entropies from index {metadata.start},"
            f" allowed one for each of the train split's {[start, stop]}; fit it again"
        )
    if not np.isfinite(entropies).all():
        raise ConfigError(f"svp.table {path}: got entropies that are not finite; fit it again")
    members = np.zeros(stop - start, bool)
    members[np.argsort(-entropies, kind="stable")[: round(keep * (stop - start))]] = True
    return CoreSet(start, members, metadata)
