"""Locks mapped memory in place, so that a GPU's copy engine can copy to it asynchronously."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch

MOUNTS = Path("/proc/self/mountinfo")


class Registrar(Protocol):
    """What locks memory for a GPU; `Cuda` is the one in use."""

    def register(self, address: int, size_bytes: int) -> int:
        """Lock memory. Returns 0, or the number of an error."""
        ...

    def unregister(self, address: int) -> int:
        """Unlock it. Returns 0, or the number of an error."""
        ...

    def forget_error(self) -> None:
        """Forget the error of the last call of this thread."""
        ...


class Cuda:
    """The CUDA runtime that torch uses."""

    def register(self, address: int, size_bytes: int) -> int:
        """See `Registrar.register`."""
        return int(_runtime().cudaHostRegister(address, size_bytes, 0))

    def unregister(self, address: int) -> int:
        """See `Registrar.unregister`."""
        return int(_runtime().cudaHostUnregister(address))

    def forget_error(self) -> None:
        """See `Registrar.forget_error`. torch has no call for this, but every launch of a kernel
        reads the runtime's last error, and so clears it."""
        with suppress(RuntimeError):  # the error to forget
            torch.ones(1, device="cuda").add_(1)


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


class Pinned:
    """The memory from ``address`` on, into which ``path`` is mapped. It is locked at most once: a
    failed attempt is told in the log and is not repeated. Copies to memory that is not locked are
    correct too, but synchronous."""

    def __init__(self, path: Path, address: int, size_bytes: int, registrar: Registrar) -> None:
        self._path, self._address, self._size_bytes = path, address, size_bytes
        self._registrar = registrar
        self._tried = self._locked = False

    def lock(self) -> None:
        """Lock the memory, unless that was tried before."""
        if self._tried:
            return
        self._tried = True
        if not in_memory(self._path):
            self._tell("its file system is no tmpfs, whose memory alone may be locked")
        elif error := self._registrar.register(self._address, self._size_bytes):
            self._registrar.forget_error()  # the next kernel of any code would report it
            self._tell(f"CUDA error {error}")
        else:
            self._locked = True

    def unlock(self) -> None:
        """Unlock the memory, if it is locked."""
        if self._locked and self._registrar.unregister(self._address):
            self._registrar.forget_error()
        self._locked = False

    def _tell(self, reason: str) -> None:
        size = f"{self._size_bytes} bytes"
        logging.warning(
            "snapshots: %s: %s not locked for the GPU (%s); copies wait", self._path, size, reason
        )


def in_memory(path: Path) -> bool:
    """Whether a file is on a tmpfs, such as /dev/shm. Linux locks the pages of other files neither
    for long nor reliably."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in MOUNTS.read_text("utf-8").splitlines():
        place, _, kind = line.partition(" - ")  # id, parent, device, root, …; then the type
        if place.split()[2] == number:
            return kind.split()[0] == "tmpfs"
    return False
