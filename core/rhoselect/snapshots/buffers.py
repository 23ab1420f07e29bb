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
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rhoselect.errors import RunError
from rhoselect.files import replacing
from rhoselect.snapshots.copying import copy_all
from rhoselect.snapshots.format import LENGTH_BYTES, STATE, WEIGHTS, Header, Span
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


@dataclass(frozen=True)
class Part:
    """Neighbouring tensors of a file, bytes ``begin`` to ``end``: their ``spans`` and ``names``,
    ``views`` in the mapped file, and the views of each prefix by the rest of their names."""

    begin: int
    end: int
    spans: list[Span]
    names: list[str]
    views: list[Tensor]
    pairs: dict[str, list[tuple[str, Tensor]]]

    @classmethod
    def of(cls, spans: list[Span], file: Tensor) -> Part:
        """The part of these tensors."""
        views = {span.name: span.view(file) for span in spans}
        pairs = {
            prefix: [(n.removeprefix(prefix), v) for n, v in views.items() if n.startswith(prefix)]
            for prefix in (WEIGHTS, STATE)
        }
        begin, end = spans[0].begin, spans[-1].end
        return cls(begin, end, spans, list(views), list(views.values()), pairs)


class Buffer:
    """One mapped safetensors file, in ``parts`` of at least ``part_bytes`` but for the last one, in
    file order. ``pinned``: its memory, which may be locked for a GPU. It is unmapped when the last
    tensor over it is freed."""

    def __init__(self, path: Path, part_bytes: int) -> None:
        # Readers never write, but torch takes writable memory only, so they map it writable too.
        populate = mmap.MAP_POPULATE if sys.platform == "linux" else 0
        with path.open("r+b") as file:
            mapping = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED | populate)
        start = LENGTH_BYTES + int.from_bytes(mapping[:LENGTH_BYTES], "little")
        header = Header.parse(mapping[:start])
        self.bytes = torch.frombuffer(mapping, dtype=torch.uint8)
        self.size = header.size
        self.pinned = Pinned(path, self.bytes.data_ptr(), self.size, Cuda())
        self.parts = list[Part]()
        spans = list[Span]()
        for span in header.spans:
            spans.append(span)
            if span.end - spans[0].begin >= part_bytes or span is header.spans[-1]:
                self.parts.append(Part.of(spans, self.bytes))
                spans = []

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


class Staging:
    """Memory of ``device`` like a buffer of ``size`` bytes: tensors of a GPU are cast there, in a
    few kernels, and leave it together."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._bytes = torch.empty(size, dtype=torch.uint8, device=device)
        self._views = dict[int, list[Tensor]]()

    def copy(self, buffer: Buffer, part: Part, given: list[Tensor]) -> None:
        """Start to copy the tensors of ``part`` to a buffer; the copy may run on after this."""
        here = slice(part.begin, part.end)
        if part.begin not in self._views:
            self._views[part.begin] = [span.view(self._bytes) for span in part.spans]
        copy_all(self._views[part.begin], given)
        buffer.bytes[here].copy_(self._bytes[here], non_blocking=True)


def finish(gpus: set[torch.device]) -> None:
    """Wait until the GPUs have done all that this thread gave them."""
    for gpu in gpus:
        torch.cuda.current_stream(gpu).synchronize()


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
