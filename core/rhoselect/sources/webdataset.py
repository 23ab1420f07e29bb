"""WebDataset tars: files of one sample are neighbours and share their name up to the first dot.

A sample is an image (.jpg, .jpeg, .png) and a label (.cls, a decimal number); other files are
counted and passed over. Nothing is unpacked to disk, so no name in a tar can reach a file; links
and devices are refused, and so is whatever would be read at once beyond a size.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import numpy as np

from rhoselect.data.manifest import Array
from rhoselect.errors import DataError, listed, shortened
from rhoselect.importing import one_line
from rhoselect.sources.leftovers import Seen
from rhoselect.sources.origins import of_files
from rhoselect.sources.source import (
    ALIASES,
    Found,
    Options,
    image_inputs,
    match_splits,
    unread_splits,
)
from rhoselect.sources.unpacking import UNZIPPED_BYTES

FILE_BYTES = 64 << 20
IMAGES = ("jpg", "jpeg", "png")
LABEL = "cls"
NEEDED = {*IMAGES, LABEL}
LABEL_DIGITS = 18  # what fits into an int64
UNREADABLE = (
    *(tarfile.TarError, OSError, EOFError, zlib.error),
    *(ValueError, OverflowError, RecursionError),  # numbers and nesting that headers make up
)
GZIP = b"\x1f\x8b"
OF_A_SAMPLE = (
    "the files of a sample are neighbours and share their name up to its first dot, so a key has no"
    " dot: rename them, and sort the tar by name"
)


class _Bounded:
    """A file that gives at most ``FILE_BYTES`` at once: tarfile reads a member's extended header
    whole, however long it says to be. One that is unzipped ends at ``most_bytes``."""

    def __init__(self, file: IO[bytes], most_bytes: int | None) -> None:
        self._file, self._most_bytes = file, most_bytes
        self.tell = file.tell

    def seek(self, offset: int) -> int:
        self._check(offset)
        return self._file.seek(offset)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= FILE_BYTES + tarfile.RECORDSIZE:
            raise tarfile.ReadError(f"a header of {size} bytes, allowed {FILE_BYTES}")
        self._check(self.tell() + size)
        return self._file.read(size)

    def _check(self, end: int) -> None:
        if self._most_bytes is not None and end > self._most_bytes + tarfile.RECORDSIZE:
            raise tarfile.ReadError(
                f"more than {self._most_bytes} bytes when unzipped, allowed at most that; unzip a"
                " file that you trust and import the result"
            )


def read_webdataset(folder: Path, options: Options) -> Found:
    """The samples of SPLIT-….tar or SPLIT/….tar, in the order of the tars' names."""
    if not folder.is_dir():
        raise DataError(f"source {folder}: no such folder; allowed one of train-000000.tar and so")
    shards, seen = defaultdict(list), Seen()
    names = {alias for aliases in ALIASES.values() for alias in aliases}
    for path in _tars(folder, seen):
        split = path.parent.name if path.parent != folder else path.stem.split("-")[0]
        if split not in names:
            raise DataError(f"source {path}: got a tar of split {split!r}, allowed train-….tar")
        shards[split].append(path)
    found = match_splits(shards, f"source {folder}", options.test)
    splits, origins = {}, {}
    for ours, theirs in found.items():
        inputs, labels, keys = _split(shards[theirs], options, seen)
        splits[ours], origins[ours] = (inputs, labels), of_files(keys)
    notes = [*unread_splits(shards, found), *seen.notes()]
    return Found("image", splits, notes=notes, origins=origins)


def _tars(folder: Path, seen: Seen) -> list[Path]:
    """The tars in a folder and in the folders in it. Other files are counted."""
    inside = seen.entries(folder)
    files = [path for path in inside if not path.is_dir()]
    files += [path for inner in inside if inner.is_dir() for path in seen.entries(inner)]
    for path in files:
        if path.suffix != ".tar":
            seen.skip(path.name)
    return sorted(path for path in files if path.suffix == ".tar")


def _split(paths: Sequence[Path], options: Options, seen: Seen) -> tuple[Array, Array, list[str]]:
    """Inputs, labels, and the tars' names with the samples' keys."""
    labels, keys = list[int](), list[str]()

    def files() -> Iterator[tuple[str, bytes]]:
        for path in paths:
            for name, image, label in _samples(path, seen):
                labels.append(label)
                keys.append(f"{path.name}/{name.lstrip('/')}")
                yield f"{path}: {name}", image

    return image_inputs(files(), options, seen), np.array(labels, np.int64), keys


def _samples(path: Path, seen: Seen) -> Iterator[tuple[str, bytes, int]]:
    """(key, bytes of the image, label) of each sample in a tar."""
    key, parts = None, {}
    for name, content in _files(path, seen):
        stem, ending = _named(name)
        if key is not None and stem != key:
            yield _sample(path, key, parts)
            parts = {}
        if ending in parts:
            raise DataError(
                f"{path}: sample {shortened(stem)!r}: got two files .{shortened(ending)}, allowed"
                f" one; {OF_A_SAMPLE}"
            )
        if ending not in NEEDED:
            seen.skip(name)
        key = stem
        parts[ending] = content
    if key is not None:
        yield _sample(path, key, parts)


def _named(name: str) -> tuple[str, str]:
    """(key of the sample, ending) of a file's name."""
    folder, _, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return f"{folder}/{stem}", ending.lower()


def _sample(path: Path, key: str, parts: dict[str, bytes]) -> tuple[str, bytes, int]:
    images = [ending for ending in IMAGES if ending in parts]
    label = parts.get(LABEL, b"").strip()
    if len(images) != 1 or not label.isdigit() or len(label) > LABEL_DIGITS:
        raise DataError(
            f"{path}: sample {shortened(key)!r}: got files {listed(sorted(parts))} and label"
            f" {label[:20]!r}, allowed one of {', '.join(IMAGES)} and a number in .cls;"
            f" {OF_A_SAMPLE}"
        )
    return key, parts[images[0]], int(label)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a tar, unzipped and bounded."""
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP
    with gzip.open(path) if zipped else path.open("rb") as file:
        bounded = _Bounded(cast("IO[bytes]", file), UNZIPPED_BYTES if zipped else None)
        yield cast("IO[bytes]", bounded)  # all of it that tarfile uses


def _files(path: Path, seen: Seen) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the regular files of a tar, gzipped or not, without leftovers."""
    try:
        with _opened(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isdir() or seen.is_leftover(member.name):
                    continue
                if not member.isreg() or member.size > FILE_BYTES:
                    raise DataError(
                        f"{path}: {shortened(member.name)!r}: got {member.size} bytes of type"
                        f" {member.type!r}, allowed regular files of at most {FILE_BYTES}"
                    )
                content = tar.extractfile(member)
                assert content is not None, "a regular file"
                yield member.name, content.read() if _named(member.name)[1] in NEEDED else b""
    except DataError:
        raise
    except UNREADABLE as error:
        raise DataError(f"{path}: not a readable tar: {one_line(error)}") from None
