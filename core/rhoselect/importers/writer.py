"""Write arrays as a data set on disk, with the noise, holdout and mix of a ``Recipe``.

The folder is written under a temporary name beside its destination and renamed at the end: it is
whole or it is not there. Shards never span splits.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rhoselect.data.base import Span
from rhoselect.data.blocks import Blobs
from rhoselect.data.fingerprint import content_hash, file_hash
from rhoselect.data.manifest import FILE_NAME, Array, Encoding, Inputs, Kind, Manifest, Shard
from rhoselect.errors import DataError
from rhoselect.importers.beside import joined_origins, write_beside
from rhoselect.importers.columns import (
    Columns,
    check_vocabulary,
    checked_columns,
    encoded,
    images,
    input_shape,
)
from rhoselect.importers.labels import (
    alike_notes,
    class_count,
    gap_notes,
    occurring_names,
    without_gaps,
)
from rhoselect.importers.mix import Mixed, apply_recipe
from rhoselect.importers.recipe import Recipe
from rhoselect.sources.source import Found, Splits

SHARD_BYTES = 256 << 20


def write_dataset(
    dst: Path | str,
    kind: Kind,
    splits: Splits,
    classes: int | None = None,
    *,
    source: str = "arrays",
    shard_rows: int | None = None,
    encoding: Encoding | None = None,
    vocabulary: int | None = None,
    class_names: Sequence[str] | None = None,
    **recipe: Any,
) -> Manifest:
    """Write {split: (inputs [R, ...], labels [R])} with splits train, [holdout,] test.

    ``classes`` defaults to the number of ``class_names``, or the greatest label + 1. ``encoding``
    stores images as JPEG or PNG files: images [R, C, H, W] are encoded, an object array [R] of
    bytes is stored as it is. ``vocabulary`` bounds the token ids. The other options are the fields
    of ``Recipe``. Raises DataError for anything that it cannot use, and then leaves nothing behind.
    """
    found = Found(kind, splits, classes, vocabulary, source, class_names=class_names)
    return write_found(dst, found, shard_rows, encoding, Recipe(**recipe))


def write_found(
    dst: Path | str,
    found: Found,
    shard_rows: int | None,
    encoding: Encoding | None,
    recipe: Recipe,
) -> Manifest:
    """As ``write_dataset``, what a source holds."""
    folder = Path(dst)
    check_destination(folder)
    recipe.check()
    read, mapped = checked_columns(found.kind, found.splits, encoding, recipe.needed), list[str]()
    if found.kind == "tokens" and found.vocabulary is not None:
        check_vocabulary(read, found.vocabulary)
    sizes = {name: len(part.labels) for name, part in read.items()}
    if recipe.map_labels:
        found = replace(found, classes=None, class_names=occurring_names(read, found.class_names))
        read, mapped = without_gaps(read)
    count = class_count(read, found.classes, found.class_names)
    gaps, alike = gap_notes(read["train"].labels, count), alike_notes(found.class_names)
    notes = (*found.notes, *mapped, *gaps, *alike)
    result = apply_recipe(read, count, recipe)
    parts = encoded(result.parts, encoding)
    manifest = _describe(found.kind, encoding, parts, count)
    about = {
        "vocabulary": found.vocabulary,
        "source": found.source,
        "notes": notes,
        "class_names": found.class_names and tuple(found.class_names),
        "columns": tuple(found.columns),
    }
    manifest = manifest.model_copy(update=about | _mix(recipe, result, manifest.splits))
    beside = {"origins": joined_origins(parts, sizes, found.origins)}
    if found.words is not None:
        beside["words"] = found.words
    return _write(folder, manifest, parts, shard_rows, beside)


def _mix(recipe: Recipe, result: Mixed, splits: Mapping[str, Span]) -> dict[str, Any]:
    """What the manifest says of a recipe and of what came of it."""
    return {
        "label_noise": recipe.label_noise,
        "noise_seed": recipe.noise_seed,
        "noise_pairs": recipe.noise_pairs,
        "holdout_noise": recipe.holdout_noise,
        "relevant_classes": result.relevant_classes,
        "ambiguous": _global_spans(result.ambiguous, splits),
        "duplicates": result.duplicates,
    }


def check_destination(folder: Path) -> None:
    """Raises DataError unless ``folder`` is free: not there, or empty."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists() or folder.is_symlink():
        raise DataError(f"destination {folder}: exists; allowed a new or empty folder")


def channel_statistics(images: Iterable[Array]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of each channel of images [R, C, H, W] uint8, scaled to [0, 1]; std 0 becomes 1.

    They are computed from histograms, so the sums are exact and the order of images does not count.
    """
    counts: Array = np.zeros((0, 256), np.int64)
    for some in images:
        found = [np.bincount(some[:, c].reshape(-1), minlength=256) for c in range(some.shape[1])]
        counts = np.stack(found) + (counts if len(counts) else 0)
    levels = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ levels
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1))
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())


def _describe(
    kind: Kind, encoding: Encoding | None, parts: Mapping[str, Columns], classes: int
) -> Manifest:
    """The manifest without its shards, its recipe and its source."""
    inputs = Inputs(kind=kind, shape=input_shape(parts, encoding), encoding=encoding)
    ends = np.cumsum([0, *(len(part.labels) for part in parts.values())]).tolist()
    spans: dict[str, Span] = dict(zip(parts, pairwise(ends), strict=True))
    mean, std = None, None
    if kind == "image":
        mean, std = channel_statistics(images("train", parts["train"], inputs))
    if encoding is not None:
        for name in parts.keys() - {"train"}:
            for _ in images(name, parts[name], inputs):
                pass  # decoding is the check
    blocks = ((_stored(part.inputs), part.labels, part.clean) for part in parts.values())
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
    folder: Path,
    manifest: Manifest,
    parts: Mapping[str, Columns],
    shard_rows: int | None,
    beside: Mapping[str, pa.Table],
) -> Manifest:
    step = shard_rows or max(1, SHARD_BYTES // _row_bytes(manifest.inputs, parts))
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.parent / f".{folder.name}.{os.getpid()}.partial"
    partial.mkdir()
    try:
        shards = tuple(
            _write_shard(partial / f"{number:05d}.arrow", manifest, columns)
            for number, columns in enumerate(_cut(parts, step))
        )
        tables = {name: write_beside(partial, name, table) for name, table in beside.items()}
        manifest = manifest.model_copy(update={"shards": shards, **tables})
        (partial / FILE_NAME).write_text(manifest.model_dump_json(indent=2) + "\n", "utf-8")
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial)
        raise
    return manifest


def _global_spans(rows: Mapping[str, Span], splits: Mapping[str, Span]) -> dict[str, Span]:
    """[start, stop) of rows of each split, as indices of the data set."""
    return {s: (splits[s][0] + begin, splits[s][0] + end) for s, (begin, end) in rows.items()}


def _row_bytes(inputs: Inputs, parts: Mapping[str, Columns]) -> int:
    """Bytes of one input on disk; the mean size if they are encoded."""
    if inputs.encoding is None:
        return inputs.size * inputs.dtype.itemsize
    sizes = [len(content) for part in parts.values() for content in part.inputs]
    return max(1, sum(sizes) // len(sizes))


def _stored(inputs: Array) -> Array | Blobs:
    """Inputs as a block of a shard holds them."""
    if inputs.dtype != object:
        return inputs
    offsets = np.cumsum([0, *map(len, inputs)], dtype=np.int64)
    return Blobs(offsets, np.frombuffer(b"".join(inputs), np.uint8))


def _cut(parts: Mapping[str, Columns], step: int) -> Iterator[Columns]:
    for part in parts.values():
        for start in range(0, len(part.labels), step):
            yield part.rows(slice(start, start + step))


def _write_shard(path: Path, manifest: Manifest, columns: Columns) -> Shard:
    rows, column_type = len(columns.labels), manifest.inputs.column_type()
    if manifest.inputs.encoding is not None:
        inputs = pa.array(columns.inputs.tolist(), column_type)
    elif manifest.inputs.kind == "image":
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
