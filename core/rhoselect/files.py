"""Files that are replaced as a whole: written beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(
    path: Path, tag: int | None = None, check: Callable[[], object] | None = None
) -> Iterator[Path]:
    """Give a path to write a file to; after the block that file takes the place of ``path``.

    A reader finds the old file or the new one, never a part of one, also after a crash of the
    machine. If the block fails, or ``check``, which runs just before the rename, ``path`` stays as
    it was and what was written is removed. ``tag`` (default: the process id) tells the writers of
    the same path apart. The folder of ``path`` must exist. Raises OSError.
    """
    beside = path.with_name(f".{path.name}.{os.getpid() if tag is None else tag}")
    try:
        yield beside
        flush(beside)
        if check is not None:
            check()
        beside.replace(path)
        flush(path.parent)
    finally:
        with suppress(OSError):  # it is renamed by now, or was never written
            beside.unlink()


def flush(path: Path) -> None:
    """Write a file, or the names in a folder, through to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
