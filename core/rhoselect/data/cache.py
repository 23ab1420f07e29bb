"""A folder of fetched shards that all processes of a node share, bounded in bytes.

A shard is named by its sha256, so that data sets share equal shards. It is fetched into a file
beside it (``.partial``), checked, and renamed. The partial file is also the lock: the process that
holds it (flock, which ends with the process) fetches, the others wait for the rename. The full size
is reserved before the first byte comes, and the least recently used shards make room, so the files
never exceed the bound. A process that maps a shard can read it even after it is evicted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rhoselect.data.manifest import Shard
from rhoselect.errors import ConfigError, RunError, WaitError

POLL_S = 0.02
Fetch = Callable[[BinaryIO], None]
"""Writes the whole shard into the file given, checked, or raises."""


class Cache:
    """The shards under ``folder``, at most ``limit_bytes`` of them."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"data.cache_dir: {folder} cannot be made ({error}); set another folder"
            ) from None

    def holds(self, shard: Shard) -> bool:
        """Whether a shard is here, in full size."""
        try:
            return self._path(shard).stat().st_size == shard.bytes
        except FileNotFoundError:
            return False

    def touch(self, shard: Shard) -> bool:
        """Mark a shard as just used; False if it is not here."""
        now = time.time_ns()  # finer than the clock by which the kernel stamps files
        # Of a shard that another user fetched, the owner alone may set the time.
        with contextlib.suppress(FileNotFoundError, PermissionError):
            os.utime(self._path(shard), ns=(now, now))
        return self.holds(shard)

    def get(self, shard: Shard, fetch: Fetch, timeout_s: float) -> Path:
        """The shard's file, fetched if need be. Another process may evict it at any time.

        Raises what ``fetch`` raises, and WaitError when for ``timeout_s`` no process that fetches
        it made progress, or no room came free.
        """
        seen, deadline = -1, time.monotonic() + timeout_s
        while not self.touch(shard):
            with self._partial(shard) as file:
                if file is not None and not self.touch(shard) and self._reserve(shard, file):
                    return self._filled(shard, fetch, file)
            if (progress := self._progress(shard)) != seen:
                seen, deadline = progress, time.monotonic() + timeout_s
            if time.monotonic() > deadline:
                raise WaitError(
                    f"shard {shard.file}: waited {timeout_s:g} s (data.timeout_s) for another"
                    f" process to fetch it, or for room in {self.folder}; raise data.cache_bytes ="
                    f" {self.limit_bytes} if many processes read different shards"
                )
            time.sleep(POLL_S)
        return self._path(shard)

    def _filled(self, shard: Shard, fetch: Fetch, file: BinaryIO) -> Path:
        try:
            fetch(file)
            os.fsync(file.fileno())  # a crash must not leave a name without its bytes
        except OSError as error:
            raise RunError(
                f"shard {shard.file}: cannot be kept under {self.folder} ({error}); free space, or"
                " set data.cache_dir"
            ) from None
        os.replace(file.name, self._path(shard))
        self.touch(shard)
        return self._path(shard)

    def _path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.sha256}.arrow"

    def _partial_path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.sha256}.partial"

    def _progress(self, shard: Shard) -> int:
        """A number that changes while a process fetches the shard."""
        try:
            return self._partial_path(shard).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    @contextmanager
    def _partial(self, shard: Shard) -> Iterator[BinaryIO | None]:
        """The partial file, locked, removed at the end; None if another process holds it."""
        path = self._partial_path(shard)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", 0) as raw:
            if not _lock(raw) or not _is(raw, path):
                yield None
                return
            # Named by its path, as a file object opened from a descriptor is not.
            with open(path, "r+b", 0) as file:
                try:
                    yield file
                finally:
                    if _is(raw, path):
                        path.unlink()

    def _reserve(self, shard: Shard, file: BinaryIO) -> bool:
        """Make room and take it, by size; False while others' downloads leave none."""
        with (self.folder / ".lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            whole = []
            free = self.limit_bytes
            for path in self.folder.iterdir():
                if path.suffix == ".arrow":
                    status = path.stat()
                    whole.append((status.st_mtime_ns, status.st_size, path))
                    free -= status.st_size
                elif path.suffix == ".partial" and path != Path(file.name):
                    free -= _held_bytes(path)
            for _, size, path in sorted(whole):
                if free >= shard.bytes:
                    break
                path.unlink()
                free += size
            if free < shard.bytes:
                return False
            file.truncate(shard.bytes)
            return True


def _held_bytes(path: Path) -> int:
    """Bytes of another process's partial file; one left by a killed process is removed."""
    try:
        with path.open("rb") as file:  # it may be another user's
            if _lock(file):
                if _is(file, path):
                    path.unlink()
                return 0
            return os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return 0


def _lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(file: BinaryIO, path: Path) -> bool:
    """Whether the open file still goes by that name: the last holder may have renamed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
