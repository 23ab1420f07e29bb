"""A data set on disk: Arrow IPC files, memory-mapped, gathered by index without a loop over points.

A *block* is one record batch of a shard, seen through numpy views of the memory map. The views keep
the map alive; nothing is copied before a gather, so that processes share the page cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from rhoselect.data.base import Labels, Span, SplitPoints, span_of
from rhoselect.data.manifest import (
    Array,
    Inputs,
    Manifest,
    Shard,
    content_hash,
    file_hash,
    read_manifest,
)
from rhoselect.errors import DataError
from rhoselect.types import Batch, Indices


@dataclass(frozen=True)
class Block:
    """Rows start … start + R - 1: inputs [R, *shape], labels [R], clean labels [R] if any."""

    start: int
    inputs: Array
    labels: Labels
    clean: Labels | None


class ArrowDataset:
    """A folder made by ``write_dataset``. Open it with ``ArrowDataset.open``."""

    def __init__(self, path: Path, manifest: Manifest, blocks: Sequence[Block]) -> None:
        self.path, self.manifest, self._blocks = path, manifest, blocks
        self.fingerprint = manifest.fingerprint
        self.classes = manifest.classes
        self.input_shape: tuple[int, ...] = manifest.inputs.shape
        self.splits: Mapping[str, Span] = manifest.splits

    @classmethod
    def open(cls, path: Path | str) -> ArrowDataset:
        """Map all shards and check them against the manifest; of the values, labels only.

        Raises DataError for whatever is missing, truncated, corrupt, or not as the manifest says.
        """
        folder = Path(path)
        manifest = read_manifest(folder)
        blocks: list[Block] = []
        start = 0
        for shard in manifest.shards:
            blocks += _open_shard(folder / shard.file, shard, manifest, start)
            start += shard.rows
        return cls(folder, manifest, blocks)

    def split(self, name: str) -> DatasetPoints:
        """The points of a split. Raises DataError for an unknown name."""
        return DatasetPoints(span_of(name, self.splits), self.manifest, self._blocks)

    def verify(self) -> None:
        """Read everything; raise DataError if a shard's hash or the fingerprint differs."""
        for shard in self.manifest.shards:
            if (got := file_hash(self.path / shard.file)) != shard.sha256:
                raise _broken(self.path / shard.file, f"sha256 {got}", shard.sha256)
        m = self.manifest
        rows = ((block.inputs, block.labels, block.clean) for block in self._blocks)
        if (got := content_hash(m.inputs, m.classes, m.splits, rows)) != m.fingerprint:
            raise _broken(self.path, f"fingerprint {got}", m.fingerprint)


class DatasetPoints(SplitPoints):
    """A split of an ArrowDataset."""

    def __init__(self, span: Span, manifest: Manifest, blocks: Sequence[Block]) -> None:
        super().__init__(span)
        self._manifest = manifest
        self._blocks = [
            block
            for block in blocks
            if block.start < self.stop and block.start + len(block.labels) > self.start
        ]
        self._starts = np.array([block.start for block in self._blocks], np.int64)
        self._scales: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def read(self, indices: Indices, device: torch.device) -> Batch:
        """Inputs [C, *input_shape] and labels [C] on ``device``.

        Images are (x / 255 - mean) / std in float32, converted on the device, element by element:
        a point has the same bits in any batch. Tokens are int64, floats float32 as stored.
        """
        inputs = _to_device(self._gather([block.inputs for block in self._blocks], indices), device)
        if self._manifest.inputs.kind == "image":
            mean, std = self._scale(device)
            inputs = inputs.to(torch.float32).div_(255).sub_(mean).div_(std)
        return Batch(indices, inputs, _to_device(self.labels(indices), device))

    def labels(self, indices: Indices) -> Labels:
        """Labels [C] int64, as trained on."""
        return self._gather([block.labels for block in self._blocks], indices)

    def clean_labels(self, indices: Indices) -> Labels | None:
        """Labels [C] int64 before noise was put in; None if the data set does not hold them."""
        columns = [block.clean for block in self._blocks if block.clean is not None]
        return self._gather(columns, indices) if columns else None

    def _gather(self, columns: Sequence[Array], indices: Indices) -> Array:
        """Rows [C, ...] of a column, given as one array a block; a fresh, contiguous array."""
        first = columns[0]
        result = np.empty((len(indices), *first.shape[1:]), first.dtype)
        if len(indices) == 0:
            return result
        assert self.start <= indices.min() and indices.max() < self.stop, "index outside the split"
        if len(columns) == 1:
            # "clip" writes straight into the result; "raise" would buffer it. Checked above.
            return np.take(first, indices - self._starts[0], axis=0, out=result, mode="clip")
        places = np.searchsorted(self._starts, indices, side="right") - 1
        for place in np.unique(places):
            here = places == place
            result[here] = columns[place][indices[here] - self._starts[place]]
        return result

    def _scale(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and std [C, 1, 1] float32 on ``device``; kept, since a copy to a GPU waits."""
        if device not in self._scales:
            m = self._manifest
            mean, std = (
                torch.tensor(values, dtype=torch.float32, device=device).reshape(-1, 1, 1)
                for values in (m.mean, m.std)
            )
            self._scales[device] = mean, std
        return self._scales[device]


def _to_device(array: Array, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _open_shard(path: Path, shard: Shard, manifest: Manifest, start: int) -> list[Block]:
    """Map one shard whose first row is row ``start``; check size, schema, rows and labels."""
    if not path.is_file():
        raise DataError(f"shard {path}: missing, but the manifest names it; import the data again")
    if (size := path.stat().st_size) != shard.bytes:
        raise _broken(path, f"{size} bytes", f"{shard.bytes}")
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.schema != manifest.arrow_schema():
            got = ", ".join(f"{field.name}: {field.type}" for field in reader.schema)
            allowed = ", ".join(f"{field.name}: {field.type}" for field in manifest.arrow_schema())
            raise _broken(path, f"columns {got}", allowed)
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate()
    except (pa.ArrowException, OSError) as error:
        raise _broken(path, f"not an Arrow file ({' '.join(str(error).split())})", "one") from None
    if (rows := sum(batch.num_rows for batch in batches)) != shard.rows:
        raise _broken(path, f"{rows} rows", f"{shard.rows}")
    blocks = list(_blocks(path, batches, manifest.inputs, start))
    for block in blocks:
        for labels in (block.labels, block.clean):
            if labels is not None:
                _check_labels(path, labels, manifest.classes)
    return blocks


def _blocks(
    path: Path, batches: Sequence[pa.RecordBatch], inputs: Inputs, start: int
) -> Iterator[Block]:
    for batch in batches:
        if any(column.null_count for column in batch.columns):
            raise _broken(path, "missing values", "none")
        if batch.num_rows == 0:
            continue
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        data = columns["inputs"]
        # A fixed-size binary column keeps its bytes in its second buffer, a list one in its child.
        flat = np.frombuffer(
            data.buffers()[-1],
            inputs.dtype,
            count=batch.num_rows * inputs.size,
            offset=data.offset * inputs.size * inputs.dtype.itemsize,
        )
        label, clean = columns["label"], columns.get("clean_label")
        yield Block(
            start,
            flat.reshape(batch.num_rows, *inputs.shape),
            label.to_numpy(zero_copy_only=True),
            None if clean is None else clean.to_numpy(zero_copy_only=True),
        )
        start += batch.num_rows


def _check_labels(path: Path, labels: Labels, classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"shard {path}: got label {low if low < 0 else high}, allowed 0 to {classes - 1};"
            " mend the source and import it again"
        )


def _broken(path: Path, got: str, allowed: str) -> DataError:
    return DataError(f"{path}: got {got}, allowed {allowed} by the manifest; import the data again")
