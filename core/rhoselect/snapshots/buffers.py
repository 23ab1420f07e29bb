"""What writer and readers of the shared memory store both map: its control words, its buffers."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from rhoselect.errors import RunError
from rhoselect.files import replacing
from rhoselect.snapshots.format import LENGTH_BYTES, Header

NONE = -1
MOST_BUFFERS = 1024
_ORDERED = platform.machine() in ("x86_64", "AMD64")


class Control(ctypes.Structure):
    """Aligned 8-byte words that only the writer writes: what is where, and how much of it.

    ``oldest`` version kept, ``newest`` whole version (NONE: none), ``count`` of buffers; of each
    buffer the ``version`` it holds and how many of its bytes are ``ready``.

    A word is copied by one 8-byte move, so a reader sees the old value or the new one. What must
    be seen in order (bytes before the word that says they are ready) is written in order, which
    is enough on x86, where no processor sees another's stores in a different order; elsewhere
    ``fence`` goes between.
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
        """Make the file as a whole, so that no reader sees a part of it."""
        with replacing(path) as beside:
            beside.write_bytes(bytes(cls(newest=NONE, version=(NONE,) * MOST_BUFFERS)))

    @classmethod
    def open(cls, path: Path) -> Control:
        """Map the file. Raises FileNotFoundError before the writer came and after it left."""
        with path.open("r+b") as file:
            return cls.from_buffer(mmap.mmap(file.fileno(), 0))

    def begin(self, buffer: int, version: int) -> None:
        """From here on ``buffer`` holds ``version``, none of whose bytes are ready."""
        self.ready[buffer] = 0
        fence()
        self.version[buffer] = version
        fence()

    def advance(self, buffer: int, ready: int) -> None:
        """The first ``ready`` bytes are written."""
        fence()
        self.ready[buffer] = ready


def fence() -> None:
    """Complete the memory accesses before it ahead of those after it.

    Python has no such instruction. The kernel's scheduler, to which this call gives the processor,
    executes one whenever it is entered.
    """
    if not _ORDERED:
        os.sched_yield()


class Buffer:
    """One mapped safetensors file; ``pieces`` are its places with tensors over them."""

    def __init__(self, path: Path) -> None:
        # Mapped for writing by the readers too, as torch takes no other memory; none of them does.
        populate = mmap.MAP_POPULATE if sys.platform == "linux" else 0
        with path.open("r+b") as file:
            mapping = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED | populate)
        start = LENGTH_BYTES + int.from_bytes(mapping[:LENGTH_BYTES], "little")
        header = Header.parse(mapping[:start])
        self._bytes = torch.frombuffer(mapping, dtype=torch.uint8)
        self._pinned = False
        self.size = header.size
        self.pieces = [(span, span.view(self._bytes)) for span in header.spans]

    @staticmethod
    def create(path: Path, header: Header) -> None:
        """Make the file, with its memory: what is only promised would kill who writes to it."""
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
                f"snapshots: {path.parent} has no room for {header.size} bytes more"
                f' ({error.strerror}); enlarge it or set snapshots.transport = "ray"'
            ) from None

    def pin(self) -> None:
        """Lock the memory for a GPU's copy engine, which then works beside the processor.

        Copies to memory that is not pinned are right too, but each waits for its end.
        """
        if not self._pinned:
            place = self._bytes.data_ptr(), self.size
            self._pinned = int(_cuda().cudaHostRegister(*place, 0)) == 0

    def close(self) -> None:
        """Unlock the memory; it is unmapped with the last tensor over it."""
        if self._pinned:
            _cuda().cudaHostUnregister(self._bytes.data_ptr())


def _cuda() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
