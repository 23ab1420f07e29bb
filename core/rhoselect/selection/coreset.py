"""Selection via proxy (Coleman et al. 2020): a core-set chosen once, before training.

A small proxy model is trained on the train split; its predictive entropy on each point is kept in a
safetensors file, tied to its data set. A run keeps the points of greatest entropy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rhoselect.errors import ConfigError
from rhoselect.files import replacing
from rhoselect.fitted import METADATA_KEY, FittedFile, dump_metadata, parse_metadata
from rhoselect.types import Indices


@dataclass(frozen=True)
class ProxyMetadata:
    """Where entropies come from; ``start`` is the data-set index of the first, ``data`` are the
    keys that made the data set: ``Config.data_keys``."""

    fingerprint: str
    start: int
    model: str
    tool: str
    seconds: float
    flops: int
    data: Mapping[str, str] = field(default_factory=dict)


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
    with replacing(path) as beside:
        save_file({"entropies": entropies}, beside, {METADATA_KEY: dump_metadata(metadata)})


def read_core_set(
    path: Path,
    fingerprint: str,
    train: tuple[int, int],
    keep: float,
    data: Mapping[str, str] | None = None,
) -> CoreSet:
    """The share ``keep`` of the points ``train`` = [start, stop) that has the greatest entropies.
    ``data``: as of ``il_table.read_table``.

    Of equal ones the lower indices are kept. Raises ConfigError (one line) for a missing or
    unreadable file, one of another data set or of other points, and entropies that are not finite.
    """
    content = "safetensors with entropies and their metadata"
    file = FittedFile(path, "svp.table", "rhoctl svp fit --out", content, ConfigError)
    file.check_exists()
    with file.reading(SafetensorError), safe_open(path, framework="np") as stored:
        metadata = parse_metadata(ProxyMetadata, stored.metadata()[METADATA_KEY])
        entropies = stored.get_tensor("entropies")
    file.check_fingerprint(metadata.fingerprint, fingerprint, metadata.data, data or {})
    start, stop = train
    if metadata.start != start or entropies.shape != (stop - start,):
        raise file.refused(
            f"got {list(entropies.shape)} entropies from index {metadata.start}, allowed one for"
            f" each of the train split's {[start, stop]}; fit it again"
        )
    if not np.isfinite(entropies).all():
        raise file.refused("got entropies that are not finite; fit it again")
    members = np.zeros(stop - start, bool)
    members[np.argsort(-entropies, kind="stable")[: round(keep * (stop - start))]] = True
    return CoreSet(start, members, metadata)
