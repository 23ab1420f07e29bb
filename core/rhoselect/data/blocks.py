"""One shard, memory-mapped and checked against the manifest.

A *block* is one record batch of a shard, seen through numpy views of the memory map. The views keep
the map alive; nothing is copied before a gather, so that processes share the page cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rhoselect.data.base import Labels
from rhoselect.data.manifest import Array, Inputs, Manifest, Shard
from rhoselect.errors import DataError, listed, shortened
from rhoselect.files import check_readable


@dataclass(frozen=True)
class Blobs:
    """Encoded inputs of R rows: that of row r is data[offsets[r] : offsets[r + 1]].

    ``offsets`` [R + 1] int64, ``data`` uint8.
    """

    offsets: npt.NDArray[np.int64]
    data: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> memoryview:
        return self.data[self.offsets[row] : self.offsets[row + 1]].data


@dataclass(frozen=True)
class Block:
    """Rows start … start + R - 1: inputs [R, *shape], labels [R], clean labels [R] if any."""

    start: int
    inputs: Array | Blobs
    labels: Labels
    clean: Labels | None


def open_shard(path: Path, name: str, shard: Shard, manifest: Manifest, start: int) -> list[Block]:
    """Map one shard whose first row is row ``start``; check size, schema, rows and labels.

    Raises OSError if it is missing or may not be read, and DataError, which calls the shard
    ``name``.
    """
    check_readable(path)
    if (size := path.stat().st_size) != shard.bytes:
        raise broken(name, f"{size} bytes", f"{shard.bytes}")
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.schema != manifest.arrow_schema():
            got = listed(f"{field.name}: {field.type}" for field in reader.schema)
            allowed = listed(f"{field.name}: {field.type}" for field in manifest.arrow_schema())
            raise broken(name, f"columns {got}", allowed)
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate(full=manifest.inputs.encoding is not None)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise broken(name, f"not an Arrow file ({shortened(str(error))})", "one") from None
    if (rows := sum(batch.num_rows for batch in batches)) != shard.rows:
        raise broken(name, f"{rows} rows", f"{shard.rows}")
    blocks = list(_blocks(name, batches, manifest.inputs, start))
    for block in blocks:
        for labels in (block.labels, block.clean):
            if labels is not None:
                _check_labels(name, labels, manifest.classes)
    return blocks


def broken(name: str, got: str, allowed: str) -> DataError:
    """What is not as the manifest says."""
    return DataError(f"{name}: got {got}, allowed {allowed} by the manifest; import the data again")


def _blocks(
    name: str, batches: Sequence[pa.RecordBatch], inputs: Inputs, start: int
) -> Iterator[Block]:
    for batch in batches:
        if any(column.null_count for column in batch.columns):
            raise broken(name, "missing values", "none")
        if batch.num_rows == 0:
            continue
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        label, clean = columns["label"], columns.get("clean_label")
        yield Block(
            start,
            _inputs(columns["inputs"], inputs),
            label.to_numpy(zero_copy_only=True),
            None if clean is None else clean.to_numpy(zero_copy_only=True),
        )
        start += batch.num_rows


def _inputs(column: pa.Array, inputs: Inputs) -> Array | Blobs:
    rows = len(column)
    if inputs.encoding is not None:
        _, offsets, data = column.buffers()
        values = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
        return Blobs(np.frombuffer(offsets, np.int64, rows + 1, 8 * column.offset), values)
    # A fixed-size binary column keeps its bytes in its second buffer, a list one in its child.
    flat = np.frombuffer(
        column.buffers()[-1],
        inputs.dtype,
        count=rows * inputs.size,
        offset=column.offset * inputs.size * inputs.dtype.itemsize,
    )
    return flat.reshape(rows, *inputs.shape)


def _check_labels(name: str, labels: Labels, classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"shard {name}: got label {low if low < 0 else high}, allowed 0 to {classes - 1};"
            " mend the source and import it again"
        )
