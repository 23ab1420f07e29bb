"""What all readers share: their options, what they give, and names of splits and classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from rhoselect.data.manifest import Array, Encoding, Kind
from rhoselect.errors import DataError, listed
from rhoselect.sources.images import decode_rgb, encode, kept
from rhoselect.sources.leftovers import Seen

ORDER = ("train", "holdout", "test")
Splits = Mapping[str, tuple[Array, Array]]
"""{split: (inputs [R, ...], labels [R])}; encoded inputs are an object array [R] of bytes."""
ALIASES = {
    "train": ("train",),
    "holdout": ("holdout", "valid", "validation", "val", "dev"),
    "test": ("test",),
}
"""What sources call our splits."""


@dataclass(frozen=True)
class Options:
    """How a source is read.

    ``shape``: of one input, for flat ones and where the place of the channels is not clear.
    ``encoding``: images stay, or become, files. ``resize``: images become squares of that many
    pixels a side. ``tokens``: ids a text; ``vocabulary``: bound of the ids. ``columns``: (inputs,
    …, label) of a table. ``test``: the share of train that the recipe makes the test split, so that
    the source need not have one.
    """

    shape: Sequence[int] | None = None
    encoding: Encoding | None = None
    resize: int | None = None
    tokens: int = 64
    vocabulary: int = 8192
    columns: tuple[str, ...] | None = None
    test: float = 0.0


@dataclass(frozen=True)
class Found:
    """What a source holds; from ``classes`` on where its reader knows it. ``columns`` are those of
    a table that were used, the label last. ``notes`` say what was left out or changed, a line each.
    ``origins`` {split: table} say where its rows come from, if not just from that split. ``words``
    is the table of the words of token ids.
    """

    kind: Kind
    splits: Splits
    classes: int | None = None
    vocabulary: int | None = None
    source: str | None = None
    notes: Sequence[str] = ()
    class_names: Sequence[str] | None = None
    columns: Sequence[str] = ()
    origins: Mapping[str, pa.Table] = field(default_factory=dict)
    words: pa.Table | None = None


def match_splits(names: Iterable[str], where: str, test: float = 0.0) -> dict[str, str]:
    """{our split: the source's name of it}; without a test split, the validation split is it,
    unless ``test``, a share of train, is to be."""
    there = list(names)
    found = {}
    for ours, aliases in ALIASES.items():
        if present := [name for name in aliases if name in there]:
            found[ours] = present[0]
    if "test" not in found and "holdout" in found and not test:
        found["test"] = found.pop("holdout")
    for split in ("train",) if test else ("train", "test"):
        if split not in found:
            raise DataError(
                f"{where}: got splits {listed(sorted(there))}, but {split!r} is missing;"
                f" allowed train, test and, if you like, {'/'.join(ALIASES['holdout'])}"
                + ("; --test 0.2 takes a random fifth of train for test" * (split == "test"))
            )
    return found


def unread_splits(there: Iterable[str], found: Mapping[str, str]) -> list[str]:
    """A note on the splits of a source that ``match_splits`` did not take, if there are any."""
    left = sorted(set(there) - set(found.values()))
    return [f"splits that are not read: {listed(left)}"] if left else []


def image_inputs(files: Iterable[tuple[str, bytes]], options: Options, seen: Seen) -> Array:
    """Images [R, 3, H, W] uint8 of (name, content of a JPEG or PNG file); grey ones become RGB.

    With an ``encoding`` an object array [R] of bytes: as ``kept`` says, or made anew if resized.
    Raises DataError, which begins with the name, for what is no image or is of another size than
    others.
    """
    images: list[Array] = []
    blobs: list[bytes] = []
    for name, content in files:
        if options.encoding is not None and options.resize is None:
            blobs.append(kept(content, options.encoding, name, seen.counts))
            continue
        image = decode_rgb(content, options.resize, name, seen.counts)
        if options.encoding is not None:
            blobs.append(encode(image, options.encoding))
            continue
        if images and image.shape != images[0].shape:
            raise DataError(
                f"{name}: got an image {list(image.shape)}, allowed {list(images[0].shape)} as in"
                " the first one; give --resize SIZE"
            )
        images.append(image)
    if options.encoding is None:
        return np.stack(images) if images else np.empty((0, 3, 0, 0), np.uint8)
    result = np.empty(len(blobs), object)
    result[:] = blobs
    return result
