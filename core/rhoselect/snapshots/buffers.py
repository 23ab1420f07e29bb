"""The shared memory that writer and readers of `SharedMemoryStore` map: control words, buffers."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import re
import sys
import time
from pathlib import Path

import torch

from rhoselect.errors import RunError
from rhoselect.files import replacing
from rhoselect.snapshots.format import LENGTH_BYTES, Header
from rhoselect.snapshots.pinning import Cuda, Pinned

NONE = -1
MOST_BUFFERS = 1024
YOUNG_S = 60.0  # a folder younger than this may have a writer that has not locked it yet
_ORDERED = platform.machine() in ("x86_64", "AMD64")


class Control(ctypes.Structure):
    """Aligned 8-byte words, written by the writer only, that describe the buffers.

    ``oldest``: oldest version kept. ``newest``: newest complete version, or NONE. ``count``: number
    of buffers. ``version[i]``: the version in buffer i. ``ready[i]``: bytes of it written so far.

    A word is copied by one 8-byte move, so a reader sees the old value or the new one. Bytes are
    written before the word that says they are ready. On x86 other processors see these stores in
    the same order; on other processors ``fence`` between them ensures that order.
    """

    _fields_ = (
        ("oldest", ctypes.c_int64),
        ("newest", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("version", ctypes.c_int64 * MOST_BUFFERS),
        ("ready", ctypes.c_int64 * MOST_BUFFERS),
    )
    oldest: int
    newest: int
    count: int
    version: ctypes.Array[ctypes.c_int64]
    ready: ctypes.Array[ctypes.c_int64]

    @classmethod
    def create(cls, path: Path) -> None:
        """Create the file atomically, so that no reader sees a part of it."""
        with replacing(path) as beside:
            beside.write_bytes(bytes(cls(newest=NONE, version=(NONE,) * MOST_BUFFERS)))

    @classmethod
    def open(cls, path: Path) -> Control:
        """Map the file. Raises FileNotFoundError before the writer created it and after the writer
        removed it."""
        with path.open("r+b") as file:
            return cls.from_buffer(mmap.mmap(file.fileno(), 0))

    def begin(self, buffer: int, version: int) -> None:
        """Assign ``buffer`` to ``version``, with no bytes ready."""
        self.ready[buffer] = 0
        fence()
        self.version[buffer] = version
        fence()

    def advance(self, buffer: int, ready: int) -> None:
        """Announce that the first ``ready`` bytes are written."""
        fence()
        self.ready[buffer] = ready


def fence() -> None:
    """A memory barrier: memory accesses before the call complete before those after it.

    Python has no such instruction. The call enters the kernel's scheduler, which executes one.
    """
    if not _ORDERED:
        os.sched_yield()


class Buffer:
    """One mapped safetensors file. ``pieces``: (span, tensor over that span), in file order;
    ``pinned``: its memory, which may be locked for a GPU. It is unmapped when the last tensor over
    it is freed."""

    def __init__(self, path: Path) -> None:
        # Readers never write, but torch takes writable memory only, so they map it writable too.
        populate = mmap.MAP_POPULATE if sys.platform == "linux" else 0
        with path.open("r+b") as file:
            mapping = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED | populate)
        start = LENGTH_BYTES + int.from_bytes(mapping[:LENGTH_BYTES], "little")
        header = Header.parse(mapping[:start])
        self._bytes = torch.frombuffer(mapping, dtype=torch.uint8)
        self.size = header.size
        self.pinned = Pinned(path, self._bytes.data_ptr(), self.size, Cuda())
        self.pieces = [(span, span.view(self._bytes)) for span in header.spans]

    @staticmethod
    def create(path: Path, header: Header) -> None:
        """Create the file and allocate its memory. Without the allocation, a write to a full file
        system would kill the process with SIGBUS. Raises RunError if there is too little memory."""
        try:
            with path.open("wb") as file:
                if sys.platform == "linux":
                    os.posix_fallocate(file.fileno(), 0, header.size)
                file.truncate(header.size)
                file.write(header.data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise
            raise RunError(
                f"snapshots: {path.parent} has no room for {header.size} more bytes"
                f' ({error.strerror}); enlarge it or set snapshots.transport = "ray"'
            ) from None


def is_abandoned(folder: Path) -> bool:
    """Whether a folder was left behind: its name is a store's, and its writer has ended."""
    if not re.fullmatch(r".+-\d+-[0-9a-f]{8}", folder.name):
        return False
    try:
        if time.time() - folder.lstat().st_mtime < YOUNG_S:
            return False
        claim = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # another user's folder, or one that is being removed
        return False
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # the writer holds the lock, or the file system has no locks
        return False
    finally:
        os.close(claim)
    return True
