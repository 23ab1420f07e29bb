"""``rhoctl data import KIND SRC DST``: from the sources that people have to a data set on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rhoselect.data.arrow import ArrowDataset
from rhoselect.data.columns import Splits
from rhoselect.data.fashion_mnist import read_fashion_mnist
from rhoselect.data.idx import read_idx_folder
from rhoselect.data.manifest import Encoding, Kind
from rhoselect.data.tables import read_npz, read_parquet
from rhoselect.data.writer import check_destination, check_options, write_dataset
from rhoselect.errors import DataError

KINDS = ("fashion-mnist", "idx", "numpy", "parquet")


def import_dataset(
    kind: str,
    src: str | Path,
    dst: str | Path,
    *,
    label_noise: float = 0.0,
    noise_seed: int = 0,
    holdout: float = 0.0,
    holdout_seed: int | None = None,
    shape: Sequence[int] | None = None,
    classes: int | None = None,
    shard_rows: int | None = None,
    encoding: Encoding | None = None,
) -> ArrowDataset:
    """Read ``src`` as ``kind`` (one of KINDS), write it to the folder ``dst``, and open that.

    The options are those of ``write_dataset``; ``shape`` is that of one input, for Parquet only.
    With an ``encoding``, Parquet's binary inputs are files of it, stored as they are.
    Raises DataError (one line) for anything that cannot be used; nothing is left behind then.
    """
    check_destination(Path(dst))
    check_options(label_noise, noise_seed, holdout, holdout_seed)
    if encoding is not None and encoding not in get_args(Encoding):
        allowed = ", ".join(get_args(Encoding))
        raise DataError(f"encoding: got {encoding!r}, allowed one of {allowed}")
    if shape is not None and (kind != "parquet" or not shape or min(shape) < 1):
        raise DataError(f"shape: got {shape} for {kind}, allowed sizes from 1, for parquet only")
    if kind == "fashion-mnist" and classes is None:
        classes = 10
    inputs, splits, source = _read(kind, src, shape, encoding)
    write_dataset(
        dst,
        inputs,
        splits,
        classes,
        label_noise=label_noise,
        noise_seed=noise_seed,
        holdout=holdout,
        holdout_seed=holdout_seed,
        source=source,
        shard_rows=shard_rows,
        encoding=encoding,
    )
    return ArrowDataset.open(dst)


def _read(
    kind: str, src: str | Path, shape: Sequence[int] | None, encoding: Encoding | None
) -> tuple[Kind, Splits, str]:
    path = Path(src)
    source = f"{kind} {path.name}"
    if kind == "fashion-mnist":
        splits, source = read_fashion_mnist(str(src))
        return "image", splits, source
    if kind == "idx":
        return "image", read_idx_folder(path), source
    if kind == "numpy":
        return *read_npz(path), source
    if kind == "parquet":
        return *read_parquet(path, shape, encoding is not None), source
    raise DataError(f"kind: got {kind!r}, allowed one of {', '.join(KINDS)}")
