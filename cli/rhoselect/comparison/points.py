"""The data sets of the arms: parts of the configuration's own, each written once and kept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rhoselect.comparison.arms import Subset
from rhoselect.config import Config
from rhoselect.data import ArrowDataset, SplitPoints, open_arrow
from rhoselect.data.il_table import IlTable, read_table, write_table
from rhoselect.errors import ConfigError
from rhoselect.importers import write_dataset
from rhoselect.types import Indices

STEP_ROWS = 4096
VALIDATION = 0x76616C  # what the seed of the validation split is for


@dataclass(frozen=True)
class Points:
    """A data set's folder with its irreducible losses, and how many points its train split has."""

    path: Path
    table: Path | None
    count: int


class Source:
    """The data set of a configuration, and what is made of it under ``root``.

    ``validation`` is the share of the train split on which learning rates are chosen.
    """

    def __init__(self, config: Config, validation: float, root: Path) -> None:
        if config.data.path is None:
            raise ConfigError(
                "data.path: missing, compare writes parts of a data set anew; make a folder with"
                " 'rhoctl data import'"
            )
        self._dataset = found = open_arrow(config.data)
        self._config, self._root = config, root
        self._validation = validation
        self.has_holdout = "holdout" in found.splits
        self._train = found.split("train")
        self.table = self._table()
        made = self.table.metadata.weights_sha256 if self.table else ""
        words = f"{found.fingerprint} {made} {validation:g}"
        self._digest = hashlib.sha256(words.encode()).hexdigest()[:10]
        if not 0 < self._held_out < len(self._train):
            raise ConfigError(
                f"--validation: got {validation:g}, which is {self._held_out} of"
                f" {len(self._train)} points; allowed a share that leaves points on both sides"
            )

    @property
    def _held_out(self) -> int:
        return round(self._validation * len(self._train))

    def _table(self) -> IlTable | None:
        if self._config.il.table is None:
            return None
        return read_table(
            Path(self._config.il.table),
            self._dataset.fingerprint,
            self._dataset.splits["train"],
            self._config.il.overlap,
            self._config.data.cache_folder / "il",
        )

    def has_copies(self) -> bool:
        """Whether the train split has exact duplicates."""
        return len(_distinct(self._train, self._train.indices)) < len(self._train)

    def make(self, subset: Subset, share: float, tuned: bool) -> Points:
        """The data set of an arm: for choosing (``tuned``), tested on the validation split, or for
        the final runs. ``share`` of its points is dropped in cleaning."""
        if subset == "train" and not tuned:
            assert self._config.data.path is not None, "checked at start"
            table = self._config.il.table
            place = Path(self._config.data.path)
            return Points(place, None if table is None else Path(table), len(self._train))
        stage = "tune" if tuned else "final"
        dropped = f"-{share:g}" if subset == "clean" else ""
        path = self._root / f"{stage}-{subset}{dropped}-{self._digest}"
        kept, held_out = self._rows(subset, share, tuned)
        if not path.exists():
            self._write(path, kept, held_out, joined=subset == "joined")
        table_path = None
        if self.table is not None and subset != "joined":
            table_path = path.with_suffix(f"{path.suffix}.parquet")
            if not table_path.exists():
                self._write_table(self.table, kept, path, table_path)
        return Points(path, table_path, len(kept))

    def _rows(self, subset: Subset, share: float, tuned: bool) -> tuple[Indices, Indices]:
        """Indices of the train split that are kept, and those of the validation split."""
        kept, held_out = self._train.indices, self._train.indices[:0]
        if tuned:
            order = np.random.default_rng(VALIDATION).permutation(kept)
            held_out, kept = np.sort(order[: self._held_out]), np.sort(order[self._held_out :])
        if subset == "distinct":
            kept = _distinct(self._train, kept)
        if subset == "clean":
            assert self.table is not None, "an arm of a table alone"
            easiest = np.argsort(self.table.at(kept), kind="stable")
            kept = np.sort(kept[easiest[: len(kept) - round(share * len(kept))]])
        return kept, held_out

    def _write(self, path: Path, kept: Indices, held_out: Indices, joined: bool) -> None:
        train, manifest = self._train, self._dataset.manifest
        inputs, labels = train.stored(kept), train.labels(kept)
        if joined:
            more = self._dataset.split("holdout")
            inputs = np.concatenate([inputs, more.stored(more.indices)])
            labels = np.concatenate([labels, more.labels(more.indices)])
        tested, rows = (train, held_out) if len(held_out) else (self._dataset.split("test"), None)
        rows = tested.indices if rows is None else rows
        write_dataset(
            path,
            manifest.inputs.kind,
            {"train": (inputs, labels), "test": (tested.stored(rows), tested.labels(rows))},
            self._dataset.classes,
            source=f"rhoctl compare: {path.name}",
            vocabulary=manifest.vocabulary,
            class_names=manifest.class_names,
        )

    def _write_table(self, table: IlTable, kept: Indices, data: Path, path: Path) -> None:
        fingerprint = ArrowDataset.open(data).fingerprint
        # The points that its model learnt from are not in this data set.
        metadata = replace(table.metadata, fingerprint=fingerprint, holdout=(0, 0))
        write_table(path, IlTable(0, table.at(kept), metadata))


def _distinct(points: SplitPoints, indices: Indices) -> Indices:
    """Of points with the same input to the byte, the first of ``indices``, whatever its label."""
    seen, kept = set[bytes](), list[int]()
    for start in range(0, len(indices), STEP_ROWS):
        some = indices[start : start + STEP_ROWS]
        for index, row in zip(some.tolist(), points.stored(some), strict=True):
            digest = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                kept.append(index)
    return np.array(kept, np.int64)
