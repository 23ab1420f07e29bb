"""manifest.json of a data set on disk: what is in the folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rhoselect.errors import DataError
from rhoselect.hashing import key64, permute

FILE_NAME = "manifest.json"
COPIES = 0x636F70696573  # what the key of duplicates is for
MOST_ELEMENTS = 2**31 - 1  # of one input: what a fixed-size column of Arrow can hold
Kind = Literal["image", "tokens", "float"]
Encoding = Literal["jpeg", "png"]
Array = npt.NDArray[Any]
Pairs = tuple[tuple[int, int], ...]
"""((from, to), …): classes whose labels become another one's."""
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=1)]
Row = Annotated[int, Field(ge=0)]
DTYPES: Mapping[Kind, type[np.generic]] = {
    "image": np.uint8,
    "tokens": np.int64,
    "float": np.float32,
}


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Inputs(Part):
    """One input: "image" [C, H, W] uint8, "tokens" [T] int64, or "float" [D…] float32.

    With an ``encoding`` the column holds the bytes of JPEG or PNG files, which decode to ``shape``.
    """

    kind: Kind
    shape: Annotated[tuple[Size, ...], Field(min_length=1)]
    encoding: Encoding | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type on disk."""
        return np.dtype(DTYPES[self.kind])

    @property
    def size(self) -> int:
        """Elements of one input."""
        return math.prod(self.shape)

    def column_type(self) -> pa.DataType:
        """Arrow type of the column ``inputs``."""
        if self.encoding is not None:
            return pa.large_binary()
        if self.kind == "image":
            return pa.binary(self.size)
        return pa.list_(pa.from_numpy_dtype(self.dtype), self.size)


class Shard(Part):
    """One Arrow IPC file in the folder."""

    file: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    rows: Size
    bytes: Size
    sha256: Sha256


class Duplicates(Part):
    """A train split of ``points`` points, then times - 1 copies of ``copied`` of them.

    Which ones is a keyed permutation, so that no table is needed to tell a copy's original.
    """

    times: Annotated[int, Field(ge=2)]
    points: Size
    copied: Size
    seed: Annotated[int, Field(ge=0, lt=2**64)]

    @property
    def rows(self) -> int:
        """Points in all."""
        return self.points + (self.times - 1) * self.copied

    def originals(self, rows: Array) -> Array:
        """The row [C] below ``points`` of which each of ``rows`` [C] is a copy, or is itself."""
        later = np.maximum(rows - self.points, 0) % self.copied
        key = key64(self.seed, COPIES)
        copied = permute(later.astype(np.uint64), self.points, key).astype(np.int64)
        return np.where(rows < self.points, rows, copied)


class Manifest(Part):
    """The whole of manifest.json. Rows count over the shards in order: row = index of a point.

    ``mean`` and ``std`` hold one number a channel, of the train split's images scaled to [0, 1].
    What ``Recipe`` put in: ``holdout_noise`` is the holdout's label noise if it differs,
    ``relevant_classes`` are those kept in full, ``ambiguous`` says where in the data set those
    points of a split are. ``columns`` are those of a table (inputs, …, label). ``notes`` say what
    the import left out or changed, a line each. ``origins`` is the file that says where each point
    came from, ``words`` the one that says which word each token id was made from.
    """

    format: Literal[1] = 1
    inputs: Inputs
    classes: Size
    fingerprint: Sha256
    splits: dict[str, tuple[Row, Row]]
    shards: Annotated[tuple[Shard, ...], Field(min_length=1)]
    clean_label: bool
    mean: tuple[float, ...] | None = None
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    label_noise: float
    noise_seed: int
    noise_pairs: Pairs = ()
    holdout_noise: float | None = None
    relevant_classes: tuple[Row, ...] | None = None
    ambiguous: dict[str, tuple[Row, Row]] = Field(default_factory=dict)
    duplicates: Duplicates | None = None
    vocabulary: Size | None = None
    source: str
    class_names: tuple[str, ...] | None = None
    columns: tuple[str, ...] = ()
    origins: Shard | None = None
    words: Shard | None = None
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Points in the data set."""
        return sum(shard.rows for shard in self.shards)

    def arrow_schema(self) -> pa.Schema:
        """Columns of every shard."""
        columns = {"inputs": self.inputs.column_type(), "label": pa.int64()}
        return pa.schema(columns | ({"clean_label": pa.int64()} if self.clean_label else {}))


def read_manifest(folder: Path) -> Manifest:
    """Read and check manifest.json. Raises DataError when missing, malformed or inconsistent."""
    path = folder / FILE_NAME
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if not folder.is_dir():
            raise DataError(
                f"data set {folder}: no such folder; if it moved, say where it is"
                " (--set data.path=DIR), or make one with `rhoctl data import`"
            ) from None
        raise DataError(
            f"data set {folder}: has no {FILE_NAME}; allowed a folder made by `rhoctl data import`"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_manifest(content, str(path))


def parse_manifest(content: bytes, path: str) -> Manifest:
    """The manifest in the bytes of a file. Raises DataError when malformed or inconsistent."""
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(
            f"{path}: malformed at {where}: {first['msg'].lower()}; import the data again"
        ) from None
    _check_splits(path, manifest)
    _check_duplicates(path, manifest)
    if manifest.origins is not None and manifest.origins.rows != manifest.rows:
        raise DataError(
            f"{path}: origins: got {manifest.origins.rows} rows, allowed {manifest.rows}, one a"
            " point; import the data again"
        )
    if (names := manifest.class_names) is not None and len(names) != manifest.classes:
        raise DataError(
            f"{path}: class_names: got {len(names)} names, allowed {manifest.classes}, one a class;"
            " import the data again"
        )
    if manifest.inputs.size > MOST_ELEMENTS:
        raise DataError(
            f"{path}: inputs.shape: got {manifest.inputs.size} elements, allowed {MOST_ELEMENTS};"
            " import the data again"
        )
    if manifest.inputs.encoding is not None and manifest.inputs.kind != "image":
        raise DataError(
            f"{path}: inputs.encoding: got {manifest.inputs.encoding} for kind"
            f" {manifest.inputs.kind}, allowed for images alone; import the data again"
        )
    channels = manifest.inputs.shape[0] if manifest.inputs.kind == "image" else 0
    if not channels == len(manifest.mean or ()) == len(manifest.std or ()):
        raise DataError(
            f"{path}: mean and std: got {len(manifest.mean or ())} and {len(manifest.std or ())}"
            f" numbers, allowed {channels}, one a channel; import the data again"
        )
    return manifest


def _check_splits(path: str, manifest: Manifest) -> None:
    for name, (start, stop) in manifest.splits.items():
        if not start < stop <= manifest.rows:
            raise DataError(
                f"{path}: splits.{name}: got [{start}, {stop}), allowed a non-empty range within"
                f" [0, {manifest.rows}); import the data again"
            )


def _check_duplicates(path: str, manifest: Manifest) -> None:
    copies, (start, stop) = manifest.duplicates, manifest.splits.get("train", (0, 0))
    if copies is None:
        return
    if copies.copied > copies.points or copies.rows != stop - start:
        raise DataError(
            f"{path}: duplicates: got {copies.copied} copied of {copies.points} points,"
            f" {copies.rows} rows in all, allowed the {stop - start} of train; import the data"
            " again"
        )
