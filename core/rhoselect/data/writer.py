"""Arrays → a data set on disk, with label noise and a holdout split put in on the way.

The folder is written under a temporary name beside its destination and renamed at the end: it is
whole or it is not there. Shards never span splits.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from rhoselect.data.base import Span
from rhoselect.data.columns import (
    Columns,
    Splits,
    checked_columns,
    class_count,
    input_shape,
    with_holdout,
    with_noise,
)
from rhoselect.data.manifest import (
    FILE_NAME,
    Array,
    Inputs,
    Kind,
    Manifest,
    Shard,
    content_hash,
    file_hash,
)
from rhoselect.errors import DataError

SHARD_BYTES = 256 << 20
STEP_ROWS = 4096


def write_dataset(
    dst: Path | str,
    kind: Kind,
    splits: Splits,
    classes: int | None = None,
    *,
    label_noise: float = 0.0,
    noise_seed: int = 0,
    holdout: float = 0.0,
    holdout_seed: int | None = None,
    source: str = "arrays",
    shard_rows: int | None = None,
) -> Manifest:
    """Write {split: (inputs [R, ...], labels [R])} with splits train, [holdout,] test.

    ``classes`` defaults to the greatest label + 1. ``label_noise`` = P replaces each label of train
    and holdout, independently with probability P, by one of the *other* classes, uniformly; the
    true one is kept in ``clean_label``. ``holdout`` moves that random fraction of train into the
    split "holdout" (``holdout_seed`` defaults to ``noise_seed``). The noise is drawn before the
    move, so a point has the same label whatever the fraction. Raises DataError for anything it
    cannot use, and then leaves nothing behind.
    """
    folder = Path(dst)
    check_destination(folder)
    check_options(label_noise, noise_seed, holdout, holdout_seed)
    parts = checked_columns(kind, splits)
    count = class_count(parts, classes)
    if label_noise:
        parts = with_noise(parts, count, label_noise, noise_seed)
    if holdout:
        seed = noise_seed if holdout_seed is None else holdout_seed
        parts = with_holdout(parts, holdout, seed)
    manifest = _describe(kind, parts, count)
    noise = {"label_noise": label_noise, "noise_seed": noise_seed, "source": source}
    return _write(folder, manifest.model_copy(update=noise), parts, shard_rows)


def check_destination(folder: Path) -> None:
    """Raises DataError unless ``folder`` is free: not there, or empty."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        raise DataError(f"destination {folder}: exists; allowed a new or empty folder")


def check_options(
    label_noise: float, noise_seed: int, holdout: float, holdout_seed: int | None
) -> None:
    """Raises DataError for a noise or holdout fraction outside [0, 1), or a negative seed."""
    for name, value in (("label noise", label_noise), ("holdout", holdout)):
        if not 0 <= value < 1:
            raise DataError(f"{name}: got {value}, allowed a fraction in [0, 1)")
    for name, seed in (("noise seed", noise_seed), ("holdout seed", holdout_seed or 0)):
        if seed < 0:
            raise DataError(f"{name}: got {seed}, allowed 0 or more")


def channel_statistics(images: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std a channel of images [N, C, H, W] uint8, in [0, 1] scale; std 0 becomes 1.

    Taken from histograms, so that the sums are exact whatever the order.
    """
    channels = images.shape[1]
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), STEP_ROWS):
        for channel in range(channels):
            values = images[start : start + STEP_ROWS, channel].reshape(-1)
            counts[channel] += np.bincount(values, minlength=256)
    levels = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ levels
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1))
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())


def _describe(kind: Kind, parts: Mapping[str, Columns], classes: int) -> Manifest:
    """The manifest but for its shards and how the content came about."""
    inputs = Inputs(kind=kind, shape=input_shape(parts))
    ends = np.cumsum([0, *(len(part.labels) for part in parts.values())]).tolist()
    spans: dict[str, Span] = dict(zip(parts, pairwise(ends), strict=True))
    mean, std = channel_statistics(parts["train"].inputs) if kind == "image" else (None, None)
    blocks = ((part.inputs, part.labels, part.clean) for part in parts.values())
    return Manifest.model_construct(
        inputs=inputs,
        classes=classes,
        fingerprint=content_hash(inputs, classes, spans, blocks),
        splits=spans,
        shards=(),
        label_noise=0.0,
        noise_seed=0,
        source="",
        clean_label=parts["train"].clean is not None,
        mean=mean,
        std=std,
    )


def _write(
    folder: Path, manifest: Manifest, parts: Mapping[str, Columns], shard_rows: int | None
) -> Manifest:
    row_bytes = manifest.inputs.size * manifest.inputs.dtype.itemsize
    step = shard_rows or max(1, SHARD_BYTES // row_bytes)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.{os.getpid()}.partial"
    partial.mkdir()
    try:
        shards = tuple(
            _write_shard(partial / f"{number:05d}.arrow", manifest, columns)
            for number, columns in enumerate(_cut(parts, step))
        )
        manifest = manifest.model_copy(update={"shards": shards})
        (partial / FILE_NAME).write_text(manifest.model_dump_json(indent=2) + "\n")
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial)
        raise
    return manifest


def _cut(parts: Mapping[str, Columns], step: int) -> Iterator[Columns]:
    for part in parts.values():
        for start in range(0, len(part.labels), step):
            yield part.rows(slice(start, start + step))


def _write_shard(path: Path, manifest: Manifest, columns: Columns) -> Shard:
    rows, column_type = len(columns.labels), manifest.inputs.column_type()
    if manifest.inputs.kind == "image":
        data = pa.py_buffer(columns.inputs)
        inputs = pa.FixedSizeBinaryArray.from_buffers(column_type, rows, [None, data])
    else:
        flat = pa.array(columns.inputs.reshape(-1))
        inputs = pa.FixedSizeListArray.from_arrays(flat, manifest.inputs.size)
    arrays = [inputs, pa.array(columns.labels)]
    if columns.clean is not None:
        arrays.append(pa.array(columns.clean))
    schema = manifest.arrow_schema()
    with pa.ipc.new_file(str(path), schema) as file:
        file.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return Shard(file=path.name, rows=rows, bytes=path.stat().st_size, sha256=file_hash(path))
